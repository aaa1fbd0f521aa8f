"""Principal components by block Krylov iteration are those of a singular value decomposition."""

import numpy as np
import pytest

from tests.planted import planted_matrix
from tl_modules.discovery import products as products_module
from tl_modules.discovery.products import InMemory, sampled_units
from tl_modules.runtime.determinism import one_thread


def exact(matrix, n_components):
    """Coordinates by a full decomposition in float64."""
    left, sizes, _ = np.linalg.svd(
        np.float64(matrix) - np.float64(matrix).mean(axis=0), full_matrices=False
    )
    return (left * sizes)[:, :n_components]


def check(found, matrix):
    """The same components, whatever their signs are."""
    expected = exact(matrix, found.shape[1])
    signs = np.sign((found * expected).sum(axis=0))
    np.testing.assert_allclose(found * signs, expected, atol=1e-3 * np.abs(expected).max())


@pytest.mark.parametrize("n_samples", [30, 400], ids=["whole Gram matrix", "iteration"])
@pytest.mark.parametrize("mean", [0, 100])
@pytest.mark.parametrize("n_some", [64, 5000], ids=["some units first", "all units"])
def test_components_are_those_of_a_full_decomposition(n_samples, mean, n_some, monkeypatch):
    monkeypatch.setattr(products_module, "N_SOME", n_some)
    matrix = planted_matrix(n_samples, 900, 5, seed=0, strength=2.0)[0] + mean
    # Blocks of different strengths: the components are far apart.
    matrix *= 1 + np.arange(900) % 5
    products = InMemory(matrix.astype(np.float32))
    with one_thread():
        check(products.principal_components(4, seed=3), matrix)


def test_the_seed_changes_little():
    products = InMemory(planted_matrix(400, 900, 5, seed=0, strength=2.0)[0])
    with one_thread():
        one, other = (np.abs(products.principal_components(4, seed=seed)) for seed in (0, 1))
    np.testing.assert_allclose(one, other, atol=1e-3 * one.max())


def test_components_beyond_the_rank_are_zero():
    matrix = np.kron(np.eye(3), np.ones((100, 40)))
    with one_thread():
        found = InMemory(matrix).principal_components(5, seed=0)
    assert (found[:, 2:] == 0).all()
    assert np.linalg.matrix_rank(found) == 2


def test_sampled_units_are_spread_evenly():
    units = sampled_units(46_080)
    assert 4096 <= len(units) < 8192
    in_layers = np.bincount(units // 1536, minlength=30)
    assert in_layers.max() <= 1.2 * in_layers.min()
    assert sampled_units(8191).tolist() == list(range(8191))
