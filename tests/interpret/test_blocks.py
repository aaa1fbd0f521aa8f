from dataclasses import replace

import numpy as np
import pytest

import tl_modules as tlm
from tests.planted import planted_matrix
from tl_modules.evaluation import module_means
from tl_modules.interpret.blocks import sort_blocks
from tl_modules.modules.labels import BACKGROUND


@pytest.fixture(scope="module")
def acts():
    return tlm.ActivationMatrix.from_arrays(planted_matrix(60, 90, 3, seed=0, strength=1.5)[0])


@pytest.fixture(scope="module")
def modules(acts):
    return tlm.discover(acts, 3)


def test_every_value_is_in_its_place_where_nothing_is_averaged(modules, acts):
    values, rows, columns = sort_blocks(modules, acts, max_rows=60, max_columns=90)
    expected = acts.zscore().values[np.ix_(rows.order, columns.order)]
    np.testing.assert_allclose(values, expected, rtol=1e-5)
    assert rows.sizes.tolist() == [1] * 60
    np.testing.assert_array_equal(rows.labels, np.sort(modules.sample_labels))


def test_cells_are_means_over_runs_within_one_module_strongest_first(modules, acts):
    values, rows, columns = sort_blocks(modules, acts, max_rows=12, max_columns=20)
    zscores = acts.zscore().values
    for bins, labels in ((rows, modules.sample_labels), (columns, modules.unit_labels)):
        for label, start, end in zip(bins.labels, bins.edges, bins.edges[1:], strict=False):
            assert set(labels[bins.order[start:end]]) == {label}
    for k in range(3):
        own = rows.order[np.repeat(rows.labels, rows.sizes) == k]
        assert (np.diff(modules.sample_scores[own]) <= 0).all()
    assert len(rows.labels) <= 12
    assert len(columns.labels) <= 20
    row, column = 4, 7
    cell = zscores[
        np.ix_(
            *(b.order[b.edges[at] : b.edges[at + 1]] for b, at in ((rows, row), (columns, column)))
        )
    ]
    assert values[row, column] == pytest.approx(cell.mean(), rel=1e-5)


def test_the_mean_over_own_blocks_is_xi(modules, acts):
    values, rows, columns = sort_blocks(modules, acts, max_rows=12, max_columns=20)
    areas = np.outer(rows.sizes, columns.sizes)
    own = rows.labels[:, None] == columns.labels
    assert np.average(values[own], weights=areas[own]) == pytest.approx(modules.objective.xi)


def test_the_background_comes_last(modules, acts):
    labels = modules.unit_labels.copy()
    labels[:10] = BACKGROUND
    _, _, columns = sort_blocks(replace(modules, unit_labels=labels), acts, max_columns=20)
    assert columns.labels[-1] == BACKGROUND
    assert set(columns.order[-10:]) == set(range(10))


def test_each_module_has_a_run_however_few_are_asked_for(modules, acts):
    values, rows, columns = sort_blocks(modules, acts, max_rows=1, max_columns=1)
    assert values.shape == (3, 3)
    assert rows.labels.tolist() == columns.labels.tolist() == [0, 1, 2]


def test_samples_read_a_few_at_a_time_and_from_a_store_give_the_same(
    modules, acts, tmp_path, monkeypatch
):
    whole, _, _ = sort_blocks(modules, acts)
    with tlm.ActivationStore.create(tmp_path / "s", acts.units, samples_per_chunk=25) as writer:
        writer.add(acts.values.astype(np.float32), acts.samples)
    monkeypatch.setattr(module_means, "_BLOCK_BYTES", 7 * 4 * 90)
    np.testing.assert_allclose(sort_blocks(modules, acts)[0], whole)
    stored = sort_blocks(modules, tlm.ActivationStore(tmp_path / "s"))[0]
    np.testing.assert_allclose(stored, whole, atol=0.01)


def test_activations_of_other_samples_are_refused(modules, acts):
    with pytest.raises(tlm.ModulesError, match=r"should hold the 60 samples .*; they hold 5"):
        sort_blocks(modules, acts.select(range(5)))
