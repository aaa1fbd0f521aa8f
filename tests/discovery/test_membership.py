import numpy as np
import pytest

import tl_modules as tlm
from tests.planted import planted_matrix
from tl_modules.modules.labels import BACKGROUND


@pytest.fixture(scope="module")
def half_noise():
    """Blocks in the first 160 units; another 160 that no topic drives."""
    matrix, samples, units = planted_matrix(80, 160, 4, seed=0, strength=1.5)
    noise = np.random.default_rng(1).normal(size=(80, 160))
    return tlm.ActivationMatrix.from_arrays(np.hstack([matrix, noise])), samples, units


def test_a_score_is_the_mean_on_the_own_topic_minus_the_best_other(planted):
    acts = tlm.ActivationMatrix.from_arrays(planted[0])
    found = tlm.discover(acts, 4)
    scored = acts.zscore().values
    means = np.stack([scored[found.sample_labels == k].mean(axis=0) for k in range(4)], axis=1)
    for unit in (0, 41, 159):
        own = found.unit_labels[unit]
        best_other = np.delete(means[unit], own).max()
        assert found.unit_scores[unit] == pytest.approx(means[unit, own] - best_other, rel=1e-6)


def test_by_fit_keeps_the_strongest_units_of_the_module(planted):
    found = tlm.discover(tlm.ActivationMatrix.from_arrays(planted[0]), 4)
    module = found[2]
    core = module.by_fit(0.25)
    assert core.n_units == round(0.25 * module.n_units)
    left_out = set(module.units.flat()) - set(core.units.flat())
    assert len(left_out) == module.n_units - core.n_units
    assert core.scores.min() >= found.unit_scores[sorted(left_out)].max()
    assert core.by_fit(1.0).n_units == core.n_units
    assert module.by_fit(1e-9).n_units == 1
    assert (
        module.by_fit(3).units.flat().tolist()
        == module.by_fit(3 / module.n_units).units.flat().tolist()
    )


def test_a_core_is_of_the_highest_scores_given(planted):
    found = tlm.discover(tlm.ActivationMatrix.from_arrays(planted[0]), 4)
    module = found[2]
    scores = np.random.default_rng(0).standard_normal(len(found.units))
    own = module.units.flat()
    expected = np.sort(own[np.argsort(-scores[own])[:5]])
    for by in (scores, scores[own]):
        core = module.core(5, by=by)
        assert core.units.flat().tolist() == expected.tolist()
        assert core.scores.tolist() == found.unit_scores[expected].tolist()
        assert core.samples.equals(module.samples)
    assert module.core(10_000, by=scores).n_units == module.n_units
    for by in (scores[:7], np.where(np.arange(len(own)) == 1, np.nan, scores[own])):
        with pytest.raises(tlm.ModulesError, match="by should be one finite score per unit"):
            module.core(5, by=by)


def test_units_that_no_topic_drives_are_set_aside_and_the_others_stay(half_noise):
    acts, _, _ = half_noise
    found = tlm.discover(acts, 4)
    kept = tlm.set_aside_background(acts, found, quantile=0.95)
    aside = kept.unit_labels == BACKGROUND
    assert aside[160:].mean() > 0.8
    assert aside[:160].mean() < 0.1
    inside = ~aside
    assert (kept.unit_labels[inside] == found.unit_labels[inside]).all()
    assert len(kept.background) == aside.sum()
    assert sum(module.n_units for module in kept) + len(kept.background) == 320


def test_the_objective_is_that_of_the_smaller_blocks(half_noise):
    acts, _, _ = half_noise
    kept = tlm.set_aside_background(acts, tlm.discover(acts, 4))
    inside = kept.unit_labels != BACKGROUND
    expected = tlm.objective(
        acts.zscore().values[:, inside], kept.sample_labels, kept.unit_labels[inside], 4
    )
    assert pytest.approx(expected.L, rel=1e-6) == kept.objective.L
    frame = kept.to_frame()
    sizes = frame["n_units"] * frame["n_samples"]
    mean = (frame["mean_activation"] * sizes).sum() / sizes.sum()
    assert mean == pytest.approx(kept.objective.xi, rel=1e-5)
    with pytest.raises(tlm.ModulesError, match="were set aside already"):
        tlm.set_aside_background(acts, kept)
    assert kept.objective.xi > tlm.discover(acts, 4).objective.xi


def test_on_permuted_columns_almost_everything_is_background(planted):
    shuffled = np.random.default_rng(0).permuted(planted[0], axis=0)
    acts = tlm.ActivationMatrix.from_arrays(shuffled)
    kept = tlm.set_aside_background(acts, tlm.discover(acts, 4), quantile=0.95)
    assert len(kept.background) / 160 > 0.8


def test_background_is_saved_and_left_out_of_probes(half_noise, tmp_path):
    acts, samples, _ = half_noise
    acts = tlm.ActivationMatrix.from_arrays(
        acts.values, samples=acts.samples.assign(category=[f"c{label}" for label in samples])
    )
    kept = tlm.set_aside_background(acts, tlm.discover(acts, 4))
    kept.save(tmp_path / "kept")
    again = tlm.ModuleSet.load(tmp_path / "kept")
    assert again.unit_labels.tolist() == kept.unit_labels.tolist()
    assert tlm.probe_accuracy(again, acts, acts) > 0.9


def test_what_cannot_be_is_refused(half_noise, planted):
    acts, _, _ = half_noise
    found = tlm.discover(acts, 4)
    for n in (0.0, 1.1, 0, -3, True):
        with pytest.raises(tlm.ModulesError, match=f"a share above 0 and at most 1; got {n}"):
            found[0].by_fit(n)
    with pytest.raises(tlm.ModulesError, match=r"between 0 and 1; got 1.0"):
        tlm.set_aside_background(acts, found, quantile=1.0)
    other = tlm.ActivationMatrix.from_arrays(planted[0])
    with pytest.raises(tlm.ModulesError, match=r"80 samples x 320 units; got \(60, 160\)"):
        tlm.set_aside_background(other, found)
