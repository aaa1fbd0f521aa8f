"""Balanced k-means: exact assignments, and clusters that are found."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment
from sklearn.metrics import adjusted_rand_score

from tl_modules.discovery._assignment import assign
from tl_modules.discovery.balanced_kmeans import balanced_kmeans


def least_cost(costs, smallest, largest):
    """The least cost by the Hungarian method, each cluster as so many places.

    A place beyond the smallest size is free only once all others are taken, which a discount on
    the others makes sure of.
    """
    discount = 1000.0 * np.abs(costs).max()
    first = np.repeat(costs - discount, smallest, axis=1)
    more = np.repeat(costs, largest - smallest, axis=1)
    places = np.hstack([first, more])
    return places[linear_sum_assignment(places)].sum() + discount * first.shape[1]


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    n_items=st.integers(5, 40),
    n_clusters=st.integers(2, 5),
    skew=st.floats(0, 3),
)
def test_an_assignment_has_the_least_cost_that_its_sizes_allow(seed, n_items, n_clusters, skew):
    generator = np.random.default_rng(seed)
    # Skewed costs make all items prefer the first clusters.
    costs = generator.random((n_items, n_clusters)) + skew * np.arange(n_clusters)
    smallest, largest = n_items // n_clusters, -(-n_items // n_clusters)
    labels = assign(costs, smallest, largest)
    sizes = np.bincount(labels, minlength=n_clusters)
    assert smallest <= sizes.min()
    assert sizes.max() <= largest
    cost = costs[np.arange(n_items), labels].sum()
    assert cost == pytest.approx(least_cost(costs, smallest, largest), abs=1e-8)


def test_sizes_that_the_cheapest_clusters_have_by_themselves_change_nothing():
    costs = np.random.default_rng(0).random((40, 3))
    assert assign(costs, 0, 40).tolist() == costs.argmin(axis=1).tolist()


def test_items_that_are_all_alike_are_divided():
    assert sorted(np.bincount(assign(np.ones((10, 3)), 3, 4)).tolist()) == [3, 3, 4]


def test_clusters_of_equal_size_are_found():
    generator = np.random.default_rng(0)
    truth = np.arange(60) % 4
    points = 6 * np.eye(4)[truth] + generator.normal(size=(60, 4))
    assert adjusted_rand_score(truth, balanced_kmeans(points, 4, generator)) > 0.95


def test_points_that_are_all_alike_are_divided():
    labels = balanced_kmeans(np.ones((11, 2)), 4, np.random.default_rng(0))
    assert sorted(np.bincount(labels).tolist()) == [2, 3, 3, 3]


def test_clusters_do_not_depend_on_the_signs_of_the_axes():
    points = np.random.default_rng(1).normal(size=(50, 5))
    signs = np.array([1, -1, -1, 1, -1])
    one, other = (
        balanced_kmeans(given, 4, np.random.default_rng(0)) for given in (points, points * signs)
    )
    assert one.tolist() == other.tolist()
