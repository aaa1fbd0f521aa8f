from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

import tl_modules as tlm
from tests.interpret.made_by_hand import module_set
from tests.planted import planted_matrix
from tl_modules.evaluation.module_means import module_means


def labelled(seed, n_samples=60):
    """Planted activations whose categories are the blocks; the units' blocks never change."""
    matrix, samples, _ = planted_matrix(n_samples, 160, 4, seed=seed, strength=0.0)
    units = np.arange(160) % 4
    matrix += 1.5 * (samples[:, None] == units[None, :])
    frame = pd.DataFrame({"category": [f"c{label}" for label in samples]})
    return tlm.ActivationMatrix.from_arrays(matrix, samples=frame)


@pytest.fixture(scope="module")
def train():
    return labelled(0)


@pytest.fixture(scope="module")
def test():
    return labelled(1, n_samples=40)


@pytest.mark.parametrize("classifier", ["svc", "lr"])
def test_categories_of_held_out_prompts_are_named_from_module_means(train, test, classifier):
    modules = tlm.discover(train, 4)
    found = tlm.probe(modules, train, test, classifier)
    assert found.accuracy > 0.95
    assert found.macro_f1 > 0.95
    assert found.n_test == 40
    assert tlm.probe_accuracy(modules, train, test, classifier) == found.accuracy


def test_shuffled_categories_cannot_be_named(train, test):
    modules = tlm.discover(train, 4)
    shuffled = np.random.default_rng(0).permutation(train.samples["category"].to_numpy())
    wrong = replace(train, samples=train.samples.assign(category=shuffled))
    assert tlm.probe_accuracy(modules, wrong, test) < 0.6


def test_features_are_means_of_zscores_fitted_at_discovery(train, test):
    modules = tlm.discover(train, 4)
    centre, scale = train.values.mean(axis=0), train.values.std(axis=0, ddof=1)
    scored = (test.values - centre) / scale
    expected = np.stack(
        [scored[:, modules.unit_labels == k].mean(axis=1) for k in range(4)], axis=1
    )
    np.testing.assert_allclose(module_means(modules, test), expected, rtol=1e-5)
    like = test.zscore(like=train.zscore().normaliser)
    np.testing.assert_allclose(module_means(modules, like), expected, rtol=1e-5)


@pytest.mark.parametrize("classifier", ["svc", "lr"])
def test_the_table_says_which_categories_are_taken_for_which(classifier):
    """Two modules of a unit each; each category's prompts lie at one point, with little noise."""
    points = {"a": (2, 0), "b": (0, 2), "c": (0, 0)}
    noise = np.random.default_rng(0).normal(scale=0.05, size=(15, 2))
    train = tlm.ActivationMatrix.from_arrays(
        np.repeat(list(points.values()), 5, axis=0) + noise,
        samples={"category": np.repeat(list(points), 5).tolist()},
    ).zscore()
    modules = module_set([0, 1], train.units, np.arange(15) % 2)
    held_out = ["aa", "aa", "aa", "ab", "bb", "bb", "cc", "ca", "da"]  # the category, and the point
    test = tlm.ActivationMatrix.from_arrays(
        np.array([points[point] for _, point in held_out], dtype=float),
        samples={"category": [category for category, _ in held_out]},
    ).zscore(like=train.normaliser)
    with pytest.warns(UserWarning, match="categories that train lacks"):
        table = tlm.probe_confusion(modules, train, test, classifier)
    assert table["category"].tolist() == np.repeat(list("abcd"), 3).tolist()
    assert table["predicted"].tolist() == list("abc") * 4
    assert table["n"].tolist() == [3, 1, 0, 0, 2, 0, 1, 0, 1, 1, 0, 0]
    shares = [0.75, 0.25, 0, 0, 1, 0, 0.5, 0, 0.5, 1, 0, 0]
    np.testing.assert_allclose(table["share"], shares)
    with pytest.warns(UserWarning, match="categories that train lacks"):
        accuracy = tlm.probe_accuracy(modules, train, test, classifier)
    assert accuracy == pytest.approx((3 + 2 + 1) / 9)


def test_what_cannot_be_probed_is_refused(train, test):
    modules = tlm.discover(train, 4)
    with pytest.raises(tlm.ModulesError, match="classifier should be one of 'svc', 'lr'"):
        tlm.probe(modules, train, test, "knn")
    bare = tlm.ActivationMatrix.from_arrays(test.values)
    with pytest.raises(tlm.ModulesError, match="test should have a category"):
        tlm.probe(modules, train, bare)
    narrow = tlm.ActivationMatrix.from_arrays(test.values[:, :80], samples=test.samples)
    with pytest.raises(tlm.ModulesError, match="have the modules' units"):
        tlm.probe(modules, train, narrow)
    unfitted = replace(modules, normaliser=None)
    with pytest.raises(tlm.ModulesError, match="need a fitted normaliser"):
        tlm.probe(unfitted, train, test)


def test_one_category_is_none_to_tell_apart(train, test):
    alone = replace(train, samples=train.samples.assign(category="c0"))
    with pytest.raises(tlm.ModulesError, match="at least two categories; all"):
        tlm.probe(tlm.discover(train, 4), alone, test)
