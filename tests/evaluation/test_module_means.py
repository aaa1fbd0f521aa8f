import numpy as np
import pandas as pd
import pytest

import tl_modules as tlm
from tests.planted import planted_matrix
from tl_modules.evaluation import module_means as module_means_file
from tl_modules.evaluation.module_means import module_means


@pytest.fixture(scope="module")
def acts():
    values = planted_matrix(30, 40, 3, seed=0, strength=1.5)[0].astype(np.float32)
    samples = {"prompt": [f"p{row}" for row in range(30)], "category": ["a", "b", "c"] * 10}
    return tlm.ActivationMatrix.from_arrays(values, samples=pd.DataFrame(samples))


@pytest.fixture(scope="module")
def modules(acts):
    return tlm.discover(acts, 3)


@pytest.fixture
def store(acts, tmp_path):
    with tlm.ActivationStore.create(tmp_path / "store", acts.units, samples_per_chunk=10) as writer:
        writer.add(acts.values, acts.samples)
    return tlm.ActivationStore(tmp_path / "store")


def test_a_modules_mean_is_over_its_units_z_scores(modules, acts):
    zscores = (acts.values - acts.values.mean(axis=0)) / acts.values.std(axis=0, ddof=1)
    expected = [zscores[:, modules.unit_labels == k].mean(axis=1) for k in range(3)]
    np.testing.assert_allclose(module_means(modules, acts), np.transpose(expected), rtol=1e-4)


def test_samples_read_a_few_at_a_time_have_the_same_means(modules, acts, monkeypatch):
    whole = module_means(modules, acts)
    monkeypatch.setattr(module_means_file, "_BLOCK_BYTES", 7 * 4 * len(acts.units))
    assert [len(rows) for rows in module_means_file.row_blocks(30, 40)] == [7, 7, 7, 7, 2]
    np.testing.assert_allclose(module_means(modules, acts), whole, rtol=1e-5)


def test_a_store_has_the_means_of_its_matrix(modules, acts, store):
    assert len(store.chunks) > 1
    np.testing.assert_allclose(module_means(modules, store), module_means(modules, acts), atol=5e-3)


def test_a_store_will_do_where_a_matrix_does(modules, acts, store):
    tree, same = tlm.hierarchy(modules, store), tlm.hierarchy(modules, acts)
    np.testing.assert_allclose(tree.linkage[:, 2], same.linkage[:, 2], atol=0.01)
    assert (
        pytest.approx(same.coarsen(2, acts).objective.L, rel=0.01)
        == tree.coarsen(2, store).objective.L
    )
    found, expected = tlm.coverage(modules, store), tlm.coverage(modules, acts)
    assert found.uncovered == expected.uncovered


def test_activations_of_other_units_are_refused(modules):
    other = tlm.ActivationMatrix.from_arrays(np.ones((4, 7), dtype=np.float32))
    with pytest.raises(tlm.ModulesError, match="have the modules' units"):
        module_means(modules, other)
