"""Faithfulness over size on a random model: what the curves and their areas should obey."""

import numpy as np
import pandas as pd
import pytest
import torch

import tl_modules as tlm
from tests.causal.test_patching import difference, each
from tl_modules.causal.faithfulness_numbers import curve_numbers, trapezoids

QUIET = {"progress": False}


@pytest.fixture(scope="module")
def scores():
    return np.random.default_rng(0).normal(size=36)


def curves(model, clean, corrupted, rankings, metric=each, **options):
    options = {"n_random": 0} | QUIET | options
    return tlm.faithfulness_curves(model, clean, corrupted, metric, rankings, **options)


def test_faithfulness_is_the_share_of_the_gap_that_the_first_units_keep(
    model, clean, corrupted, acts, scores
):
    found = curves(model, clean, corrupted, {"mine": scores}, sizes=[10, 0.5, 1.0])
    order = np.argsort(-scores)
    with torch.inference_mode():
        other = model.run_with_cache(corrupted)[1]

        def kept(n):
            rest = tlm.Module(0, acts.units.select(np.sort(order[n:])), acts.samples)
            hooks = rest.fwd_hooks("patch", source=other) if n < 36 else []
            return float(difference(model.run_with_hooks(clean, fwd_hooks=hooks)))

        full, empty = kept(36), kept(0)
        expected = [(kept(n) - empty) / (full - empty) for n in (10, 18)]
    assert found.table["n_units"].tolist() == [10, 18, 36]
    np.testing.assert_allclose(found.table["share"], [10 / 36, 0.5, 1])
    np.testing.assert_allclose(found.table["faithfulness"], [*expected, 1], rtol=1e-3)
    assert found.table["metric"].iloc[-1] == pytest.approx(full, rel=1e-4)
    assert (found.metric_full, found.metric_empty) == pytest.approx((full, empty), rel=1e-4)
    assert found.table[["lowest", "highest"]].isna().all(axis=None)


@pytest.mark.parametrize("method", ["mean", "zero"])
def test_other_ablations_need_no_corrupted_run(model, clean, acts, scores, method):
    found = curves(model, clean, None, {"mine": scores}, method=method, reference=acts, sizes=[9])
    keep = acts.units.select(np.sort(np.argsort(-scores)[:9]))
    rest, whole = (
        tlm.Module(0, units, acts.samples) for units in (keep.complement(), acts.units.every())
    )
    where = tlm.content_positions(model, clean)
    with torch.inference_mode():
        kept, none, full = (
            float(difference(model.run_with_hooks(clean, fwd_hooks=hooks)))
            for hooks in (
                rest.fwd_hooks(method, acts, positions=where),
                whole.fwd_hooks(method, acts, positions=where),
                [],
            )
        )
    expected = (kept - none) / (full - none)
    assert found.table["faithfulness"].item() == pytest.approx(expected, rel=1e-3)


def test_heads_are_units_beside_neurons(model, clean, corrupted):
    site = tlm.units.site_units(model, "mlp+attn_heads")
    first = np.arange(len(site), 0, -1.0)
    found = curves(model, clean, corrupted, {"a": first}, units="mlp+attn_heads")
    assert found.table["n_units"].iloc[-1] == len(site) == 42
    # With every neuron and head patched, only the last token itself is the clean run's.
    same_end = torch.cat([corrupted[:, :-1], clean[:, -1:]], dim=1)
    found = curves(model, clean, same_end, {"a": first}, units="mlp+attn_heads")
    with torch.inference_mode():
        assert found.metric_empty == pytest.approx(float(difference(model(same_end))), rel=1e-4)


def test_random_orders_are_a_band_around_their_mean(model, clean, corrupted, scores):
    found = curves(model, clean, corrupted, {"mine": scores}, n_random=4, seed=3)
    rows = found.table[found.table["ranking"] == "random"]
    assert (rows["lowest"] <= rows["faithfulness"]).all()
    assert (rows["faithfulness"] <= rows["highest"]).all()
    assert rows["highest"].sub(rows["lowest"]).iloc[:-1].max() > 0.01
    drawn = [np.random.default_rng([3, 1, number]).permutation(36) for number in range(4)]
    by_hand = {str(at): -np.argsort(order).astype(float) for at, order in enumerate(drawn)}
    alone = curves(model, clean, corrupted, by_hand, seed=3).table
    parts = alone.groupby("n_units")["faithfulness"]
    np.testing.assert_allclose(rows["faithfulness"], parts.mean(), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(rows["highest"], parts.max(), rtol=1e-4, atol=1e-6)
    areas = found.areas.set_index("ranking")
    assert areas.loc["random", "cpr_lowest"] < areas.loc["random", "cpr_highest"]
    assert np.isnan(areas.loc["mine", "cmd_highest"])


def test_equal_scores_are_ordered_at_random_and_the_last_may_be_infinite(
    model, clean, corrupted, scores
):
    members = scores > np.sort(scores)[-12]
    options = {"sizes": [11, 20]}
    plain = curves(model, clean, corrupted, {"set": members}, **options)
    low = curves(model, clean, corrupted, {"set": np.where(members, 0.0, -np.inf)}, **options)
    other = curves(model, clean, corrupted, {"set": members}, seed=1, **options)
    f = [each.table["faithfulness"].to_numpy() for each in (plain, low, other)]
    np.testing.assert_allclose(f[0], f[1], rtol=1e-5)
    assert f[0][0] == pytest.approx(f[2][0], rel=1e-4)  # the same eleven
    assert f[0][1] != pytest.approx(f[2][1], rel=1e-4)  # and nine others at random


def test_areas_are_trapezoids_between_the_first_and_the_last_size():
    shares = [0.1, 0.5, 1.0]
    lifts = np.array([[[0.0, 0.0], [0.0, 4.0], [2.0, 2.0]]])  # mean: 0, 2, 2
    gap = np.array([2.0, 2.0])
    sizes, areas = curve_numbers(lifts, gap, shares, np.array([[0, 0], [1, 1]]))
    assert [size["faithfulness"] for size in sizes] == [0, 1, 1]
    assert areas["cpr"] == pytest.approx(0.4 * 0.5 + 0.5)
    assert areas["cmd"] == pytest.approx(0.4 * 0.5)
    # On the first prompt f is 0, 0, 1, and on the second 0, 2, 1.
    assert areas["cpr_ci_low"] == pytest.approx(0.25, abs=0.05)
    assert areas["cpr_ci_high"] == pytest.approx(0.4 + 0.75, abs=0.05)
    assert sizes[1]["ci_high"] == pytest.approx(2, abs=0.06)
    assert np.isnan(trapezoids(np.ones((1, 1)), [1.0])).all()


def test_mibs_random_circuits_score_a_quarter():
    """Nothing up to a half and everything at the end: 0.25 and 0.75, as MIB reports."""
    shares = [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0]
    f = np.array([0.0] * 9 + [1.0])[:, None]
    assert trapezoids(f, shares).item() == pytest.approx(0.25)
    assert trapezoids(1 - f, shares).item() == pytest.approx(0.75, abs=0.0011)
    assert trapezoids(np.ones((10, 1)), shares).item() == pytest.approx(0.999)


def test_the_smallest_size_is_chosen_on_these_prompts_and_reported_on_others(
    model, clean, corrupted, scores
):
    rankings = {"mine": scores, "other": -scores}
    chosen = curves(model, clean[:1], corrupted[:1], rankings)
    tested = curves(model, clean[1:], corrupted[1:], rankings)
    assert chosen.table[["ci_low", "ci_high"]].isna().all(axis=None)  # of one prompt
    own, held_out = chosen.smallest(0.8), chosen.smallest(0.8, testing=tested)
    assert own["ranking"].tolist() == ["mine", "other"]
    assert own["n_units"].equals(held_out["n_units"])
    for table, source in ((own, chosen), (held_out, tested)):
        at = source.table.set_index(["ranking", "n_units"])["faithfulness"]
        found = [at[key] for key in zip(table["ranking"], table["n_units"], strict=True)]
        np.testing.assert_allclose(table["faithfulness"], found)
    for ranking, size in zip(own["ranking"], own["n_units"], strict=True):
        curve = chosen.table[chosen.table["ranking"] == ranking]
        assert (curve.loc[curve["n_units"] < size, "faithfulness"] < 0.8).all()
    never = curves(model, clean, corrupted, {"mine": scores}, sizes=[1]).smallest(1e6)
    assert never.iloc[0, 1:].isna().all()
    with pytest.raises(tlm.ModulesError, match="testing should have the rankings and sizes"):
        chosen.smallest(0.8, testing=curves(model, clean, corrupted, {"else": scores}))


def test_units_are_ranked_by_module(model, clean, corrupted, modules):
    found = tlm.attribute_modules(model, clean, corrupted, each, modules, **QUIET)
    frame = found.to_frame().assign(rank=-found.by_module()).sort_values("rank")
    by_score = found.modules.sort_values("score", ascending=False)["module"].tolist()
    assert frame["module"].drop_duplicates().tolist() == by_score
    assert frame.groupby("module")["score"].apply(lambda part: part.is_monotonic_decreasing).all()
    one = tlm.attribute_modules(model, clean, corrupted, each, modules[1], **QUIET)
    first = one.by_module().argsort()[::-1][: modules[1].n_units]
    assert set(first) == set(modules[1].units.flat())
    rest = one.unit_scores[one.by_module().argsort()[::-1][modules[1].n_units :]]
    assert (np.diff(rest) <= 0).all()


def test_what_cannot_be_ranked_is_refused(model, clean, corrupted, scores):
    def refused(match, rankings=None, **options):
        with pytest.raises(tlm.ModulesError, match=match):
            curves(model, clean, corrupted, rankings or {"mine": scores}, **options)

    refused(
        r"rankings\['a'\] should be one number per unit of the site, \(36,\)", {"a": scores[1:]}
    )
    refused("none of them NaN", {"a": scores * np.nan})
    refused("of the site, .42,", units="mlp+attn_heads")
    refused("none called 'random'", {"random": scores})
    refused("sizes should be at most the site's 36 units; got 37", sizes=[37])
    refused("sizes should be a whole number of units from 1", sizes=[0.0])
    refused("n_random should be at least 0", n_random=-1)
    refused("method='mean' needs means", method="mean")
    refused("units should be one of 'mlp'", units="neurons")
    with pytest.raises(tlm.ModulesError, match=r"at least one ranking.*got none"):
        curves(model, clean, corrupted, {})
    with pytest.raises(tlm.ModulesError, match="Pass corrupted_tokens"):
        curves(model, clean, None, {"mine": scores})
    refused("Ablating all 36 units should change", metric=lambda logits: logits[:, 0, 0] * 0 + 2)


def test_random_orders_alone_are_a_result(model, clean, corrupted):
    found = curves(model, clean, corrupted, {}, n_random=2, sizes=[1.0])
    assert found.table["ranking"].tolist() == ["random"]
    assert found.table["faithfulness"].item() == pytest.approx(1)
    assert np.isnan(found.areas["cpr"].item())
    assert repr(found) == "FaithfulnessCurves(1 rankings, 1 sizes)"
    assert isinstance(found.table, pd.DataFrame)
