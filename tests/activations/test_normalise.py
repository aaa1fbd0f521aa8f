from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import rankdata
from sklearn.metrics import adjusted_rand_score

import tl_modules as tlm
from tests.planted import planted_matrix
from tl_modules.activations.normalise import NORMALISATIONS, Rank, ZScore

# Whole numbers in a small range: most columns have ties, where ranks are easily wrong.
VALUES = st.integers(2, 101).flatmap(
    lambda n: arrays(np.float32, (n, 4), elements=st.integers(-3, 3))
)


@given(VALUES)
def test_ranks_are_scipys_mid_ranks_scaled(values):
    found = Rank.fit(values).apply(values)
    places = (rankdata(values, axis=0) - 1) / (len(values) - 1)
    np.testing.assert_allclose(found, (places - 0.5) * np.sqrt(12), atol=1e-5)


def test_of_many_samples_percentiles_are_kept(tmp_path):
    values = np.random.default_rng(0).lognormal(sigma=2, size=(1000, 3))
    values[:400, 0] = 0  # most of all ties
    fitted = Rank.fit(values)
    assert fitted.quantiles.shape == (101, 3)
    exact = ((rankdata(values, axis=0) - 1) / 999 - 0.5) * np.sqrt(12)
    assert np.abs(fitted.apply(values) - exact).max() < 0.04  # about one percentile
    beyond = fitted.apply(np.array([[-1.0, 0.5, 1e9]]))
    assert beyond[0, [0, 2]].tolist() == pytest.approx([-np.sqrt(3), np.sqrt(3)])


def test_one_huge_value_moves_zscores_and_not_ranks():
    values = np.random.default_rng(0).random((50, 4))
    outlier = values.copy()
    outlier[7, 2] = values[:, 2].max() + 1e6
    changes = []
    for name in ("zscore", "rank"):
        one, other = (
            tlm.ActivationMatrix.from_arrays(matrix).normalise(name).values
            for matrix in (values, outlier)
        )
        changes.append(np.abs(np.delete(one - other, 7, axis=0)).max())
    assert changes[0] > 1
    assert changes[1] < 0.1


@pytest.mark.parametrize("name", NORMALISATIONS)
def test_planted_modules_are_found_under_each(name, tmp_path):
    values, samples, units = planted_matrix(60, 200, 4, seed=0, strength=2.0)
    acts = tlm.ActivationMatrix.from_arrays(values - values.min())
    modules = tlm.discover(acts.normalise(name), 4)
    assert adjusted_rand_score(units, modules.unit_labels) > 0.95
    assert modules.normaliser.name == name
    # Held-out prompts are normalised as the modules' were, also from a file.
    modules.save(tmp_path / "modules.safetensors")
    again = tlm.ModuleSet.load(tmp_path / "modules.safetensors")
    frame = acts.samples.assign(category=[f"c{label}" for label in samples])
    labelled = tlm.ActivationMatrix.from_arrays(acts.values, samples=frame)
    assert tlm.probe_accuracy(again, labelled, labelled) > 0.9
    fitted = acts.normalise(name)
    fitted.save(tmp_path / "acts.safetensors")
    loaded = tlm.ActivationMatrix.load(tmp_path / "acts.safetensors")
    np.testing.assert_array_equal(
        loaded.normaliser.apply(acts.values), fitted.normaliser.apply(acts.values)
    )
    like = acts.normalise(name, like=loaded.normaliser)
    np.testing.assert_array_equal(like.values, fitted.values)


@pytest.mark.parametrize("name", NORMALISATIONS)
def test_stability_and_background_follow_the_normalisation(name):
    values, _, _ = planted_matrix(60, 120, 3, seed=0, strength=2.0)
    acts = tlm.ActivationMatrix.from_arrays(values - values.min())
    table = tlm.stability(acts, 3, n_seeds=2, n_halves=1, normalise=name, progress=False)
    assert table.set_index("kind").loc["halves", "ari"] > 0.8
    modules = tlm.discover(acts.normalise(name), 3)
    kept = tlm.set_aside_background(acts, modules)
    same = tlm.set_aside_background(acts.normalise(name), modules)
    np.testing.assert_array_equal(kept.unit_labels, same.unit_labels)


def test_what_cannot_be_normalised_is_refused(acts):
    with pytest.raises(tlm.ModulesError, match="name should be one of 'zscore', 'rank', 'no"):
        acts.normalise("minmax")
    with pytest.raises(tlm.ModulesError, match="are ranks already"):
        acts.normalise("rank").zscore()
    with pytest.raises(tlm.ModulesError, match="at least 2 samples; got 1"):
        acts.select([0]).normalise("rank")
    like = Rank(np.zeros(36), np.zeros((5, 3)))
    with pytest.raises(tlm.ModulesError, match=r"fitted on 36 units; its .*quantiles has shape"):
        acts.normalise("rank", like=like)
    fitted = acts.normalise("rank").normaliser
    with pytest.raises(tlm.ModulesError, match="should be a fitted 'zscore' normaliser; got Rank"):
        acts.normalise("zscore", like=fitted)
    with pytest.raises(tlm.ModulesError, match="name should be one of"):
        acts.normalise("typo", like=fitted)


def test_modules_and_activations_are_normalised_alike_or_not_at_all(acts, modules):
    for other in (acts.normalise("rank"), acts.normalise("none")):
        with pytest.raises(
            tlm.ModulesError, match="should have the modules' normalisation, 'zscore'"
        ):
            tlm.probe(modules, other, other)
        with pytest.raises(
            tlm.ModulesError, match="should have the modules' normalisation, 'zscore'"
        ):
            tlm.set_aside_background(other, modules)


ONES = np.ones(36)


def from_file(kind, **arrays):
    """As a hostile file might give it: past the types that the tests check."""
    normaliser = object.__new__(kind)
    vars(normaliser).update(arrays)
    return normaliser


@pytest.mark.parametrize(
    "normaliser",
    [
        from_file(ZScore, mean=np.array(0.0), std=ONES),
        ZScore(ONES, np.zeros(36)),
        ZScore(np.full(36, np.nan), ONES),
        from_file(ZScore, mean=np.ones(36, dtype=bool), std=ONES),
        Rank(ONES, np.zeros((0, 36))),
        Rank(ONES, np.zeros((1, 36))),
        Rank(ONES, np.array([[1.0] * 36, [0.0] * 36])),
    ],
)
def test_a_normaliser_that_no_fit_gives_is_refused(acts, normaliser):
    with pytest.raises(tlm.ModulesError, match="normaliser"):
        replace(acts, normaliser=normaliser)
