"""Detectors on scores worked out by hand, and on planted concepts."""

import numpy as np
import pandas as pd
import pytest

import tl_modules as tlm
from tl_modules.evaluation.detectors import _same_pick, _Score

QUIET = {"progress": False}
TRUTH = np.arange(24) < 12


def matrix(values, truth=TRUTH):
    """Two layers of half the units each."""
    width = values.shape[1] // 2
    names = tuple(f"blocks.{layer}.mlp.hook_post" for layer in range(2))
    units = tlm.Units.whole(names, (0, 1), (width, width))
    samples = pd.DataFrame({"category": np.where(truth, "yes", "no")})
    return tlm.ActivationMatrix.from_arrays(values, units=units, samples=samples)


@pytest.fixture(scope="module")
def spread_out():
    """A concept that each unit of the second layer holds faintly, and no unit alone."""
    generator = np.random.default_rng(0)
    values = generator.normal(size=(24, 400)).astype(np.float32)
    values[TRUTH, 200:] += 0.5
    return matrix(values)


@pytest.fixture(scope="module")
def in_one_unit():
    """A concept that one unit of the first layer holds, upside down."""
    values = np.random.default_rng(1).normal(size=(24, 400)).astype(np.float32)
    values[:, 7] = np.where(TRUTH, -3, 3) + 0.1 * values[:, 7]
    return matrix(values)


def test_scores_worked_out_by_hand():
    labels = np.array([True, True, False, False, False])
    values = np.array([[3.0, 0.0], [1.0, 1.0], [2.0, 2.0], [0.0, 9.0], [2.5, 0.0]])
    drawn, left = np.array([0, 0, 2, 3, 3]), np.array([1, 4])
    tests, truth = np.array([[1.0, 0.0], [2.0, 1.0], [0.0, 5.0]]), np.array([True, False, False])
    score = _Score(labels, drawn, left, values, tests, truth)
    # On the resample prompt 0 is above 2 and 3 by the first feature, below both by the second.
    assert score.all_aucs().tolist() == [1.0, 0.0]
    # Left out: 1.0 of the concept is below 2.5; of the test prompts it is above one of two.
    assert score.alone(0, score.all_aucs()) == {"auc_in": 1.0, "auc": 0.0, "auc_test": 0.5}
    # Turned round: 1.0 is above 0.0; 0.0 is below both.
    assert score.alone(1, score.all_aucs()) == {"auc_in": 1.0, "auc": 0.0, "auc_test": 1.0}


def test_the_chance_of_the_same_pick_worked_out_by_hand():
    assert _same_pick(np.array([4, 4, 4, 9])) == pytest.approx(6 / 12)
    assert np.isnan(_same_pick(np.array([-1, -1])))


def test_what_many_units_hold_faintly_a_layers_mean_tells_better_than_the_best_unit(spread_out):
    found = tlm.compare_detectors(spread_out, "yes", n_resamples=20, **QUIET)
    table = found.table.set_index("detector")
    assert table.index.tolist() == ["neuron", "layer", "neurons", "layers"]
    assert table.loc["layer", "auc"] > 0.98
    assert table.loc["neuron", "auc"] < 0.85
    assert table.loc["neuron", "auc_in"] > 0.9  # chosen among 400: optimistic
    assert table.loc["neuron", "same_pick"] < 0.5
    assert table.loc["layer", "same_pick"] == 1
    assert table["auc_shuffled"].between(0.3, 0.7).all()
    assert table.loc["layer", "p_value"] == pytest.approx(1 / 20)
    single = found.runs.loc[(found.runs["detector"] == "layer") & ~found.runs["shuffled"]]
    assert set(single["feature"]) == {1}


def test_what_one_unit_holds_it_tells_best_whichever_way_round(in_one_unit):
    found = tlm.compare_detectors(in_one_unit, "yes", n_resamples=10, **QUIET)
    table = found.table.set_index("detector")
    assert table.loc["neuron", ["auc", "auc_in", "same_pick"]].tolist() == [1, 1, 1]
    assert table.loc["layer", "auc"] < 0.9
    chosen = found.runs.loc[(found.runs["detector"] == "neuron") & ~found.runs["shuffled"]]
    assert set(chosen["feature"]) == {7}


def test_modules_and_test_prompts_join_the_comparison():
    values = np.random.default_rng(3).normal(size=(24, 40)).astype(np.float32)
    values[TRUTH, 20:] += 2
    acts = matrix(values)
    modules = tlm.discover(acts, 3, **QUIET)
    found = tlm.compare_detectors(acts, "yes", modules, test=acts, n_resamples=5, **QUIET)
    table = found.table.set_index("detector")
    assert table.index.tolist() == ["neuron", "layer", "module", "neurons", "layers", "modules"]
    assert table["n_features"].tolist() == [40, 2, 3, 40, 2, 3]
    # A feature alone is not fitted: on all prompts it scores as by itself.
    members = np.eye(3)[modules.unit_labels]
    means = acts.zscore().values @ members / members.sum(axis=0)
    runs = found.runs.loc[(found.runs["detector"] == "module") & ~found.runs["shuffled"]]
    assert (runs["auc_in"] > 0.9).all()  # so no draw turns a feature the wrong way round
    for _, run in runs.iterrows():
        expected = by_scikit_learn(means[:, run["feature"]], TRUTH)
        assert run["auc_test"] == pytest.approx(max(expected, 1 - expected))


def by_scikit_learn(scores, truth):
    from sklearn.metrics import roc_auc_score

    return roc_auc_score(truth, scores)


def test_test_prompts_are_z_scored_as_those_that_chose():
    # In the second layer one unit holds the concept; of the other the test prompts have far more.
    generator = np.random.default_rng(2)
    train, test = generator.normal(size=(2, 24, 4)).astype(np.float32)
    train[:, 2] = test[:, 2] = np.where(TRUTH, 3, -3)
    test[:, 3] *= 100
    options = {"test": matrix(test), "n_resamples": 4, **QUIET}
    runs = tlm.compare_detectors(matrix(train), "yes", **options).runs
    scored = (test - train.mean(axis=0)) / train.std(axis=0, ddof=1)
    expected = by_scikit_learn(scored[:, 2:].mean(axis=1), TRUTH)
    layers = runs.loc[(runs["detector"] == "layer") & ~runs["shuffled"]]
    assert set(layers["feature"]) == {1}
    assert expected < 0.8
    np.testing.assert_allclose(layers["auc_test"], expected)


def test_the_tables_numbers_are_those_of_the_unshuffled_resamples(acts):
    found = tlm.compare_detectors(acts, "animal", test=acts, n_resamples=6, **QUIET)
    for _, row in found.table.iterrows():
        own = found.runs.loc[found.runs["detector"] == row["detector"]]
        shuffled, real = own.loc[own["shuffled"]], own.loc[~own["shuffled"]]
        for name in ("auc", "auc_test"):
            assert row[name] == pytest.approx(real[name].mean())
            ends = row[[f"{name}_ci_low", f"{name}_ci_high"]].tolist()
            assert ends == pytest.approx(np.quantile(real[name], [0.025, 0.975]))
        assert row["auc_in"] == pytest.approx(real["auc_in"].mean())
        assert row["auc_shuffled"] == pytest.approx(shuffled["auc"].mean())


def test_the_p_value_compares_means_of_equally_many_resamples(acts):
    found = tlm.compare_detectors(acts, "animal", n_resamples=30, n_shuffles=7, **QUIET)
    numbers = found.runs.groupby("shuffle")["resample"].nunique()
    assert numbers.tolist() == [30] + [3] * 7
    for _, row in found.table.iterrows():
        own = found.runs.loc[found.runs["detector"] == row["detector"]]
        mean, *others = own.loc[own["resample"] < 3].groupby("shuffle")["auc"].mean()
        as_high = np.count_nonzero(np.array(others) >= mean - 1e-9)
        assert row["p_value"] == pytest.approx((1 + as_high) / 8)


def test_the_same_seed_gives_the_same_comparison(acts, modules):
    first, second, other = (
        tlm.compare_detectors(acts, "code", modules, n_resamples=4, seed=seed, **QUIET).runs
        for seed in (1, 1, 2)
    )
    pd.testing.assert_frame_equal(first, second)
    assert not first["auc"].equals(other["auc"])


def test_what_cannot_be_is_refused(acts, spread_out):
    with pytest.raises(tlm.ModulesError, match="at least 3 prompts of the category 'plant'"):
        tlm.compare_detectors(acts, "plant", **QUIET)
    with pytest.raises(tlm.ModulesError, match="test should hold at least 1 prompts"):
        tlm.compare_detectors(acts, "animal", test=acts.select([1, 3]), **QUIET)
    with pytest.raises(tlm.ModulesError, match="test should have the same units"):
        tlm.compare_detectors(spread_out, "yes", test=acts, **QUIET)
    with pytest.raises(tlm.ModulesError, match="z-scores already"):
        tlm.compare_detectors(acts.zscore(), "animal", **QUIET)
    with pytest.raises(tlm.ModulesError, match="n_shuffles should be at least 1"):
        tlm.compare_detectors(acts, "animal", n_shuffles=0, **QUIET)
    with pytest.raises(tlm.ModulesError, match="n_resamples should be at least 2"):
        tlm.compare_detectors(acts, "animal", n_resamples=1, **QUIET)


def test_it_says_what_it_found(spread_out):
    found = tlm.compare_detectors(spread_out, "yes", n_resamples=2, **QUIET)
    assert repr(found).startswith("Detectors(of 'yes', AUC on prompts left out: neuron 0.")
    assert "auc_shuffled" in found._repr_html_()


def test_the_figure_has_a_box_a_kind_and_the_test_prompts(acts, modules):
    pytest.importorskip("plotly", reason="the extra 'viz' is not installed in this environment")
    options = {"n_resamples": 3, **QUIET}
    found = tlm.compare_detectors(acts, "animal", modules, test=acts, **options)
    shuffled, left_out, tests = tlm.plots.plot_detectors(found).data
    assert (shuffled.name, left_out.name, tests.name) == ("shuffled", "left out", "test prompts")
    real = found.runs.loc[~found.runs["shuffled"]]
    np.testing.assert_allclose(left_out.y, real["auc"])
    np.testing.assert_allclose(tests.y, found.table["auc_test"])
    without = tlm.compare_detectors(acts, "animal", **options)
    assert len(tlm.plots.plot_detectors(without).data) == 2
