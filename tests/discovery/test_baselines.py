import numpy as np
import pytest
from sklearn.metrics import adjusted_rand_score

import tl_modules as tlm
from tl_modules.discovery import baselines
from tl_modules.discovery.products import InMemory
from tl_modules.discovery.start import principal_components


@pytest.fixture(scope="module")
def strong():
    """Raw activations with four blocks that no method should miss."""
    from tests.planted import planted_matrix

    matrix, samples, units = planted_matrix(60, 160, 4, seed=1, strength=4.0)
    return tlm.ActivationMatrix.from_arrays(np.exp(0.3 * matrix)), samples, units


@pytest.mark.parametrize("method", baselines.BASELINES)
def test_every_baseline_finds_strong_planted_blocks(strong, method):
    acts, samples, units = strong
    found = tlm.discover_baseline(acts, method, 4)
    # Centred groups span K - 1 directions, in which K independent components do not fit.
    enough = 0.5 if method == "ica" else 0.9
    assert adjusted_rand_score(units, found.unit_labels) > enough
    assert adjusted_rand_score(samples, found.sample_labels) > enough
    assert found.method == method
    scored = acts.zscore().values
    assert found.objective == tlm.objective(scored, found.sample_labels, found.unit_labels, 4)


@pytest.mark.parametrize("method", baselines.BASELINES)
def test_the_same_seed_gives_the_same_groups(strong, method):
    first, again = (tlm.discover_baseline(strong[0], method, 3, seed=5) for _ in range(2))
    assert first.unit_labels.tolist() == again.unit_labels.tolist()
    assert first.sample_labels.tolist() == again.sample_labels.tolist()


@pytest.mark.parametrize("method", ["agglomerative", "spectral", "spectral_coclustering"])
def test_methods_that_need_all_pairs_work_on_preclusters(strong, method, monkeypatch):
    acts, _, units = strong
    monkeypatch.setattr(baselines, "N_PRECLUSTERS", 40)
    found = tlm.discover_baseline(acts, method, 4)
    assert adjusted_rand_score(units, found.unit_labels) > 0.9
    # Units of one pre-cluster stay together.
    points = principal_components(InMemory(acts.zscore().values.T), 0)
    groups, centres = baselines._preclusters(points, 0)
    assert len(centres) <= 40
    for group in np.unique(groups):
        assert len(set(found.unit_labels[groups == group])) == 1


def test_iterd_reaches_a_higher_objective_than_every_baseline(planted):
    acts = tlm.ActivationMatrix.from_arrays(np.exp(0.3 * planted[0][:, ::2]))
    best = tlm.discover(acts, 4).objective.L
    others = [tlm.discover_baseline(acts, method, 4).objective.L for method in baselines.BASELINES]
    assert 0 < max(others) <= best


def test_samples_take_the_label_whose_units_they_drive_most(strong):
    acts = strong[0]
    found = tlm.discover_baseline(acts, "kmeans", 3)
    scored = acts.zscore().values
    drive = np.stack([scored[:, found.unit_labels == k].mean(axis=1) for k in range(3)], axis=1)
    assert found.sample_labels.tolist() == drive.argmax(axis=1).tolist()


def test_an_unknown_method_and_a_bad_k_are_refused(strong):
    with pytest.raises(tlm.ModulesError, match=r"method should be one of 'kmeans'.*got 'ward'"):
        tlm.discover_baseline(strong[0], "ward", 4)
    with pytest.raises(tlm.ModulesError, match=r"between 2 and min.*; got 1"):
        tlm.discover_baseline(strong[0], "kmeans", 1)
