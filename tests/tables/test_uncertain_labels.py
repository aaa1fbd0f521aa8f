"""Means by labels that are known by their probabilities: by hand, their truth, what is left out."""

import numpy as np
import pytest

import tl_modules as tlm
from tl_modules.tables.prompt_labels import KnownLabels
from tl_modules.tables.uncertain_labels import N_REFITS, Refits, UncertainLabels


class Given:
    """Labels of the same probabilities in each refit, whose weights are given."""

    def __init__(self, probabilities, refits=None, weights=None):
        self.probabilities = np.array(probabilities, dtype=float)
        self.labels = [chr(ord("a") + at) for at in range(self.probabilities.shape[1])]
        n_prompts = len(self.probabilities)
        each = [self.probabilities] if refits is None else [np.array(one, float) for one in refits]
        self.refits = np.stack([each[at % len(each)] for at in range(N_REFITS)])
        drawn = np.random.default_rng(0).dirichlet(np.ones(n_prompts), N_REFITS) * n_prompts
        self.weights = drawn if weights is None else np.array([weights] * N_REFITS, dtype=float)

    def refitted(self, prompts, n_refits, seed):
        """All of them."""
        return Refits(self.weights, self.refits)


def labels_of(given):
    return UncertainLabels.of(given, ["p"] * len(given.probabilities), seed=0)


def test_means_are_the_coefficients_of_a_regression_on_the_probabilities():
    # b's mean is 3, a's is 1: a prompt that is a with probability 3/4 is expected to have 1.5.
    found = labels_of(Given([[1, 0], [0.75, 0.25], [0.25, 0.75], [0, 1]]))
    expected = np.array([1.0, 1.5, 2.5, 3.0])
    np.testing.assert_allclose(found.means(expected[None]), [[1.0, 3.0]])
    np.testing.assert_allclose(found.resampled(expected, 0), [[1.0, 3.0]] * N_REFITS)
    # By hand: Q'Q = [[13, 3], [3, 13]] / 8, so that its inverse is [[13, -3], [-3, 13]] / 20.
    values = np.array([4.0, 0.0, 0.0, 0.0])  # Q'y = [4, 0]
    np.testing.assert_allclose(found.means(values[None]), [[2.6, -0.6]])
    assert found.sizes.tolist() == [2, 2]


def test_a_refit_weighs_prompts():
    more = Given([[1, 0], [1, 0], [0.5, 0.5], [0, 1], [0, 1]], weights=[2.5, 0, 0, 2.5, 0])
    found = labels_of(more).resampled(np.array([1.0, 50.0, 50.0, 3.0, 50.0]), 0)
    np.testing.assert_allclose(found, [[1.0, 3.0]] * N_REFITS)


def test_a_label_of_one_prompt_has_no_interval():
    found = labels_of(Given([[1, 0], [1, 0], [0.9, 0.1], [0, 1]]))
    assert found.sizes.tolist() == [3, 1]
    np.testing.assert_array_equal(
        np.isnan(found.resampled(np.arange(4.0), 0)), [[False, True]] * N_REFITS
    )


def test_the_means_are_right_where_those_of_the_likeliest_labels_are_not():
    n_covered, likely = 0, []
    for seed in range(40):
        generator = np.random.default_rng(seed)
        first = generator.uniform(0.05, 0.95, size=200)
        values = (generator.random(200) < first) + generator.normal(size=200)
        found = labels_of(Given(np.stack([first, 1 - first], axis=1)))
        resampled = found.resampled(values, 0) @ [1, -1]
        low, high = np.quantile(resampled, [0.025, 0.975])
        n_covered += low < 1 < high  # the difference of the two labels' means
        is_first = np.array(found.column()) == "a"
        likely.append(values[is_first].mean() - values[~is_first].mean())
    assert n_covered >= 34
    assert np.mean(likely) < 0.6


def test_certain_labels_are_known_ones():
    found = labels_of(Given([[0, 1], [1, 0], [1e-9, 1 - 1e-9]]))
    known = KnownLabels.of(np.array(["b", "a", "b"], dtype=object))
    assert isinstance(found, KnownLabels)
    assert (found.names, found.codes.tolist()) == (known.names, known.codes.tolist())
    assert found.column() == ["b", "a", "b"]
    values = np.array([1.0, 2.0, 4.0])
    assert found.means(values[None]).tolist() == [[2.5, 2.0]]
    assert np.isnan(found.resampled(values, 0)[:, 1]).all()  # one prompt
    assert set(found.resampled(values, 0)[:, 0]) == {1.0, 2.5, 4.0}
    assert found.parts(values, "b").tolist() == [1.0, 4.0]
    # Certain in the fit, and not in a refit.
    unsure = Given(np.eye(2)[[0, 0, 1]], refits=[[[1, 0], [0.4, 0.6], [0, 1]]])
    assert isinstance(labels_of(unsure), UncertainLabels)


def test_parts_sum_to_the_mean_times_the_number_of_prompts():
    found = labels_of(Given([[1, 0], [0.75, 0.25], [0.25, 0.75], [0, 1]]))
    values = np.array([4.0, 1.0, 7.0, 2.0])
    (means,) = found.means(values[None])
    for name, mean in zip(found.names, means, strict=True):
        assert found.parts(values, name).sum() == pytest.approx(2 * mean)


def test_a_label_without_prompts_in_some_refit_is_left_out():
    probabilities = [[0.9, 0.1, 0.0], [0.1, 0.9, 0.0], [0.2, 0.0, 0.8]]
    gone = [[0.9, 0.1, 0.0], [0.1, 0.9, 0.0], [0.9, 0.1, 0.0]]
    with pytest.warns(UserWarning, match="left out: 'c'"):
        found = labels_of(Given(probabilities, refits=[probabilities, gone]))
    assert found.names == ["a", "b"]
    assert found.column() == ["a", "b", "a"]
    assert np.isfinite(found.means(np.ones((1, 3)))).all()


def test_a_label_that_no_answer_names_is_left_out_without_a_warning(recwarn):
    found = labels_of(Given([[0.9, 0.1, 0.0], [0.1, 0.9, 0.0]]))
    assert found.names == ["a", "b"]
    assert not recwarn


def test_every_label_occurs_in_the_column():
    found = labels_of(Given([[0.6, 0.4], [0.7, 0.3], [0.9, 0.1]]))
    assert found.names == ["a", "b"]
    assert found.column() == ["b", "a", "a"]


def test_labels_without_any_prompt_in_some_refit_are_refused():
    swapped = [np.eye(2)[[0, 0]], np.eye(2)[[1, 1]]]
    with pytest.raises(tlm.ModulesError, match="each of 200 estimates; none of 'a', 'b' has"):
        labels_of(Given(np.eye(2)[[0, 0]], refits=swapped))
