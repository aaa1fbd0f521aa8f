import numpy as np
import pytest

import tl_modules as tlm
from tests.planted import planted_matrix
from tl_modules.modules.labels import BACKGROUND


@pytest.fixture(scope="module")
def with_common():
    """Blocks in the first 160 units; four more that follow one topic, as if every topic did."""
    matrix, _, _ = planted_matrix(80, 160, 4, seed=0, strength=1.5)
    common = 30 * matrix[:, :4] + np.random.default_rng(1).normal(size=(80, 4))
    acts = tlm.ActivationMatrix.from_arrays(np.hstack([matrix, common]))
    return acts, acts.units.select(np.arange(160, 164))


@pytest.mark.parametrize("method", ["topics_first", "ulcmod"])
def test_discovery_is_that_of_the_other_units_alone(with_common, method):
    acts, shared = with_common
    found = tlm.discover(acts, 4, shared=shared, method=method, progress=False)
    others = tlm.ActivationMatrix.from_arrays(acts.values[:, :160])
    alone = tlm.discover(others, 4, method=method, progress=False)
    assert found.unit_labels[:160].tolist() == alone.unit_labels.tolist()
    assert (found.unit_labels[160:] == BACKGROUND).all()
    assert found.sample_labels.tolist() == alone.sample_labels.tolist()
    assert found.objective == alone.objective
    np.testing.assert_array_equal(found.unit_scores[:160], alone.unit_scores)
    assert np.isnan(found.unit_scores[160:]).all()
    np.testing.assert_allclose(found.sample_scores, alone.sample_scores)
    assert found.normaliser.apply(acts.values).shape == (80, 164)  # held-out prompts have them all


def test_shared_units_stay_together_and_are_saved(with_common, tmp_path):
    acts, shared = with_common
    found = tlm.discover(acts, 4, shared=shared, progress=False)
    assert found.shared.units.flat().tolist() == [160, 161, 162, 163]
    assert found.background.flat().tolist() == [160, 161, 162, 163]
    assert "164 units (4 shared by all)" in repr(found)
    assert found.find(layer=0, unit=161).module is None
    found.save(tmp_path / "found")
    again = tlm.ModuleSet.load(tmp_path / "found")
    assert again.shared.units.flat().tolist() == [160, 161, 162, 163]
    assert tlm.discover(acts, 4, progress=False).shared is None


def test_the_background_is_set_aside_beside_shared_units(with_common):
    acts, shared = with_common
    noisy = np.array(acts.values)
    noisy[:, :40] = np.random.default_rng(2).normal(size=(80, 40))
    acts = tlm.ActivationMatrix.from_arrays(noisy)
    found = tlm.discover(acts, 4, shared=shared, progress=False)
    kept = tlm.set_aside_background(acts, found, progress=False)
    assert kept.shared.units.flat().tolist() == shared.flat().tolist()
    others = tlm.ActivationMatrix.from_arrays(noisy[:, :160])
    alone = tlm.discover(others, 4, progress=False)
    expected = tlm.set_aside_background(others, alone, progress=False)
    assert kept.objective == expected.objective
    with pytest.raises(tlm.ModulesError, match="were set aside already"):
        tlm.set_aside_background(acts, kept)


def test_what_cannot_be_set_aside_is_refused(with_common, acts, model, prompts, tmp_path):
    matrix, shared = with_common
    with pytest.raises(tlm.ModulesError, match="shared should be units of the activations' model"):
        tlm.discover(acts, 2, shared=shared, progress=False)
    with pytest.raises(tlm.ModulesError, match="it holds all"):
        tlm.discover(matrix, 2, shared=matrix.units, progress=False)
    with pytest.raises(tlm.ModulesError, match=r"= 3; got 4"):
        tlm.discover(matrix, 4, shared=matrix.units.select(np.arange(3, 164)), progress=False)
    store = tlm.collect(model, prompts, store=tmp_path / "store", progress=False)
    some = store.units.select(np.arange(3))
    with pytest.raises(tlm.ModulesError, match=r"store\.matrix\(\)"):
        tlm.discover(store, 2, shared=some, progress=False)
    assert tlm.discover(store.matrix(), 2, shared=some, progress=False).shared.n_units == 3
