"""Partitions that ought not to depend on what they are given in, and matrices at the edge."""

import inspect

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import adjusted_rand_score

import tl_modules as tlm
from tests.conftest import tiny_model, unsaid
from tests.discovery.oracles import plain_value
from tests.planted import planted_matrix


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), n_modules=st.integers(2, 5))
def test_the_order_of_rows_and_columns_does_not_matter(seed, n_modules):
    generator = np.random.default_rng(seed)
    matrix = generator.normal(size=(14, 31))
    samples, units = generator.integers(n_modules, size=14), generator.integers(n_modules, size=31)
    sample_orders = np.array([generator.permutation(14) for _ in range(6)])
    unit_orders = np.array([generator.permutation(31) for _ in range(6)])
    rows, columns = generator.permutation(14), generator.permutation(31)
    # Item i of the permuted matrix is item rows[i] of the first: visit the same ones in turn.
    place_of_row, place_of_column = np.argsort(rows), np.argsort(columns)
    first = tlm.iterd(
        matrix,
        n_modules,
        sample_labels=samples,
        unit_labels=units,
        sample_orders=sample_orders,
        unit_orders=unit_orders,
        max_rounds=6,
    )
    permuted = tlm.iterd(
        np.ascontiguousarray(matrix[rows][:, columns]),
        n_modules,
        sample_labels=samples[rows],
        unit_labels=units[columns],
        sample_orders=place_of_row[sample_orders],
        unit_orders=place_of_column[unit_orders],
        max_rounds=6,
    )
    assert permuted.sample_labels.tolist() == first.sample_labels[rows].tolist()
    assert permuted.unit_labels.tolist() == first.unit_labels[columns].tolist()
    assert permuted.history == pytest.approx(first.history, rel=1e-9)


def test_renaming_the_modules_renames_the_result():
    matrix = planted_matrix(20, 50, 3, seed=1, strength=0.7)[0]
    generator = np.random.default_rng(0)
    samples, units = generator.integers(3, size=20), generator.integers(3, size=50)
    names = np.array([2, 0, 1])
    orders = {
        "sample_orders": np.array([generator.permutation(20) for _ in range(20)]),
        "unit_orders": np.array([generator.permutation(50) for _ in range(20)]),
    }
    first = tlm.iterd(matrix, 3, sample_labels=samples, unit_labels=units, **orders)
    other = tlm.iterd(matrix, 3, sample_labels=names[samples], unit_labels=names[units], **orders)
    assert other.unit_labels.tolist() == names[first.unit_labels].tolist()
    assert other.sample_labels.tolist() == names[first.sample_labels].tolist()


def test_two_modules_are_enough():
    matrix, samples, units = planted_matrix(30, 60, 2, seed=0, strength=1.5)
    found = tlm.iterd(matrix, 2, max_rounds=50)
    assert adjusted_rand_score(samples, found.sample_labels) == 1
    assert adjusted_rand_score(units, found.unit_labels) == 1


def test_as_many_modules_as_samples():
    generator = np.random.default_rng(0)
    matrix = 4 * np.repeat(np.eye(8), 5, axis=1) + generator.normal(size=(8, 40))
    found = tlm.iterd(matrix, 8, max_rounds=50)
    assert sorted(found.sample_labels.tolist()) == list(range(8))
    assert adjusted_rand_score(np.repeat(np.arange(8), 5), found.unit_labels) > 0.8
    value = plain_value(matrix, found.sample_labels, found.unit_labels, 8)
    assert pytest.approx(value, rel=1e-12) == found.objective.L
    assert tlm.discover(tlm.ActivationMatrix.from_arrays(matrix), 8).n_modules == 8


def test_as_many_modules_as_units():
    matrix = 4 * np.repeat(np.eye(5), 6, axis=0) + np.random.default_rng(0).normal(size=(30, 5))
    found = tlm.iterd(matrix, 5, max_rounds=50)
    assert sorted(found.unit_labels.tolist()) == list(range(5))


def test_units_that_never_change_are_labelled_and_add_nothing():
    matrix, _, units = planted_matrix(40, 80, 4, seed=0, strength=2.0)
    dead = np.concatenate([matrix, np.full((40, 6), 3.25)], axis=1)
    acts = tlm.ActivationMatrix.from_arrays(dead)
    modules = tlm.discover(acts, 4)
    assert adjusted_rand_score(units, modules.unit_labels[:80]) > 0.95
    assert (acts.zscore().values[:, 80:] == 0).all()
    assert np.isfinite(modules.unit_scores).all()
    assert np.abs(modules.unit_scores[80:]).max() == 0


def test_a_matrix_of_nothing_but_constants_gives_an_objective_of_zero():
    modules = tlm.discover(tlm.ActivationMatrix.from_arrays(np.ones((6, 9))), 2)
    assert modules.objective.L == 0
    assert modules.converged


def test_copies_of_a_sample_share_a_module():
    matrix, samples, _ = planted_matrix(30, 90, 3, seed=0, strength=1.2)
    found = tlm.iterd(np.concatenate([matrix, matrix, matrix]), 3, max_rounds=50)
    first, second, third = found.sample_labels.reshape(3, 30)
    assert first.tolist() == second.tolist() == third.tolist()
    assert adjusted_rand_score(samples, first) == 1


def test_the_same_sample_over_and_over_is_no_error():
    matrix = np.tile(np.random.default_rng(0).normal(size=(1, 20)), (8, 1))
    found = tlm.iterd(matrix, 3, max_rounds=20)
    assert np.isfinite(found.objective.L)


@unsaid
def test_layers_of_one_unit(prompts):
    model = tiny_model(n_layers=6, d_mlp=1)
    acts = tlm.collect(model, prompts, progress=False)
    assert acts.values.shape == (len(prompts), 6)
    modules = tlm.discover(acts, 2)
    assert sum(module.n_units for module in modules) == 6
    effects = tlm.module_effects(model, modules, prompts.head(4), n_controls=2, progress=False)
    assert np.isfinite(effects["effect"]).all()
    # A layer's only unit is its only control: nothing can be said of the module.
    np.testing.assert_allclose(effects["control_mean"], effects["effect"], atol=1e-6)
    assert (effects["p_value"] == 1).all()


def test_an_empty_module_makes_the_reported_objective_zero():
    # Three clean blocks and K = 4: the fourth label starts with a unit and no sample.
    matrix = np.kron(np.eye(3), np.ones((6, 10)))
    samples, units = np.repeat(np.arange(3), 6), np.repeat(np.arange(3), 10)
    units[0] = 3
    found = tlm.iterd(matrix, 4, sample_labels=samples, unit_labels=units, max_rounds=20)
    sizes = np.bincount(found.unit_labels, minlength=4) * np.bincount(
        found.sample_labels, minlength=4
    )
    assert sizes.min() == 0
    assert found.objective.B == found.objective.L == 0
    assert found.history[-1] > 0


@pytest.mark.parametrize("labels", [[0.0, 1.0, 2.5] * 4, ["0", "1", "2"] * 4])
def test_labels_that_are_no_whole_numbers_are_refused(labels):
    matrix = np.random.default_rng(0).normal(size=(12, 20))
    iterd = inspect.unwrap(tlm.iterd)
    with pytest.raises(tlm.ModulesError, match="sample_labels should be whole numbers"):
        iterd(matrix, 3, sample_labels=np.array(labels))


def test_as_many_modules_as_samples_from_every_kind_of_start():
    acts = tlm.ActivationMatrix.from_arrays(np.random.default_rng(0).random((3, 20)))
    modules = tlm.discover(acts, 3, n_starts=3, n_kicks=2, progress=False)
    assert np.isfinite(modules.unit_scores).all()


def test_a_hook_point_that_never_fires_and_a_sample_all_alike():
    matrix = np.abs(planted_matrix(40, 80, 4, seed=0, strength=2.0)[0])
    matrix = np.concatenate([matrix, np.full((1, 80), 1.5)])
    matrix = np.concatenate([np.zeros((41, 20)), matrix], axis=1)
    modules = tlm.discover(tlm.ActivationMatrix.from_arrays(matrix), 4, progress=False)
    assert np.isfinite(modules.unit_scores).all()
    assert np.isfinite(modules.sample_scores).all()
    assert np.abs(modules.unit_scores[:20]).max() < 1e-12


@pytest.mark.parametrize("method", ["zscore", "rank", "none"])
@pytest.mark.parametrize("scale", [1e-30, 3e37])
def test_very_small_and_very_large_values_are_partitioned(method, scale):
    matrix = np.abs(planted_matrix(40, 80, 4, seed=0, strength=2.0)[0])
    acts = tlm.ActivationMatrix.from_arrays((matrix / matrix.max() * scale).astype(np.float32))
    modules = tlm.discover(acts.normalise(method), 4, progress=False)
    assert np.isfinite(modules.objective.L)
    assert np.isfinite(modules.unit_scores).all()


def test_values_whose_squares_overflow_float64_are_refused():
    acts = tlm.ActivationMatrix.from_arrays(np.random.default_rng(0).random((10, 20)) * 1e300)
    with pytest.raises(
        tlm.ModulesError, match=r"magnitudes up to 1e\+150, .* got 9.*e\+299\. Scale them"
    ):
        tlm.discover(acts, 2)
