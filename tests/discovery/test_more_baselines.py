"""Baselines beyond the paper's."""

import builtins

import numpy as np
import pytest
from sklearn.metrics import adjusted_rand_score

import tl_modules as tlm
from tests.planted import planted_matrix
from tl_modules.discovery.unit_groups import leiden_labels


def two_groups():
    """Two groups of points around opposite corners, 20 and 10 points."""
    centres = np.repeat([[1.0, 0.0], [0.0, 1.0]], [20, 10], axis=0)
    return centres + np.random.default_rng(0).normal(0, 0.01, centres.shape)


def test_leiden_finds_as_many_communities_as_asked():
    pytest.importorskip("leidenalg")
    labels = leiden_labels(two_groups(), 2, seed=0)
    assert labels.tolist() == [0] * 20 + [1] * 10
    assert set(leiden_labels(two_groups(), 5, seed=0)) == set(range(5))


def test_leiden_without_its_package_says_what_to_install(monkeypatch):
    real = builtins.__import__

    def missing(name, *arguments, **options):
        if name in ("igraph", "leidenalg"):
            raise ImportError(name)
        return real(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", missing)
    acts = tlm.ActivationMatrix.from_arrays(planted_matrix(20, 40, 2, seed=0)[0])
    with pytest.raises(tlm.ModulesError, match=r"pip install 'tl_modules\[leiden\]'"):
        tlm.discover_baseline(acts, "leiden", 2)


def test_kmeans_argmax_keeps_small_modules_apart():
    generator = np.random.default_rng(0)
    samples, units = np.repeat(np.arange(4), 20), np.repeat(np.arange(4), [160, 20, 10, 10])
    values = generator.normal(size=(80, 200)) + 2 * (samples[:, None] == units)
    found = tlm.discover_baseline(tlm.ActivationMatrix.from_arrays(values), "kmeans_argmax", 4)
    assert adjusted_rand_score(units, found.unit_labels) > 0.9
    assert found.method == "kmeans_argmax"


@pytest.mark.parametrize("method", ["ica", "nmf"])
def test_factors_find_more_modules_than_the_16_components_of_a_clustering(method):
    matrix, _, units = planted_matrix(200, 400, 20, seed=0, strength=5.0)
    acts = tlm.ActivationMatrix.from_arrays(np.exp(0.3 * matrix))
    found = tlm.discover_baseline(acts, method, 20)
    assert len(set(found.unit_labels)) > 16
    assert adjusted_rand_score(units, found.unit_labels) > 0.6
