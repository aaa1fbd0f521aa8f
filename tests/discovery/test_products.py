"""A store streamed from disk gives what the same matrix gives in memory."""

import tracemalloc

import numpy as np
import pytest
from sklearn.metrics import adjusted_rand_score

import tl_modules as tlm
from tests.conftest import once
from tests.planted import planted_matrix
from tl_modules.discovery import products as products_module
from tl_modules.discovery import streamed as streamed_module
from tl_modules.discovery.products import InMemory
from tl_modules.discovery.streamed import Streamed


def stored(path, values, **options):
    units = tlm.Units.anonymous(values.shape[1])
    writer = tlm.ActivationStore.create(path, units, **options)
    writer.add(values)
    return writer.close()


@pytest.fixture(scope="module", params=["float16", "bfloat16", "float32"])
def pair(request, tmp_path_factory):
    """The same raw activations in chunks of 7 samples, and in memory."""
    generator = np.random.default_rng(0)
    # More units than two blocks of columns hold.
    values = generator.gamma(1.0, size=(40, 9001)).astype(np.float32)
    folder = tmp_path_factory.mktemp("store") / "acts"
    store = stored(folder, values, samples_per_chunk=7, dtype=request.param)
    return Streamed(store, store.fit_zscore()), InMemory(store.matrix().zscore().values)


def test_sums_over_labels_agree(pair):
    streamed, in_memory = pair
    generator = np.random.default_rng(1)
    samples, units = generator.integers(5, size=40), generator.integers(5, size=9001)
    for one, other in (
        (streamed.unit_sums(samples, 5), in_memory.unit_sums(samples, 5)),
        (streamed.sample_sums(units, 5), in_memory.sample_sums(units, 5)),
    ):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=2e-3)


def test_sums_of_squares_agree(pair):
    streamed, in_memory = pair
    assert streamed.sum_of_squares() == pytest.approx(in_memory.sum_of_squares(), rel=1e-3)


def test_some_units_agree(pair, monkeypatch):
    monkeypatch.setattr(products_module, "N_SOME", 1000)
    one, other = (products.some_units() for products in pair)
    assert 1000 <= one.shape[1] < 2000
    np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("n_moved", [0, 1, 3, 20, 30])
def test_sums_brought_up_to_date_are_the_sums_anew(pair, n_moved, monkeypatch):
    streamed, _ = pair
    generator = np.random.default_rng(2)
    calls = []
    shift = streamed_module._stream.change_columns
    monkeypatch.setattr(
        streamed_module._stream, "change_columns", lambda *a: calls.append(1) or shift(*a)
    )
    for length, times, sums, update in (
        (40, 1, streamed.unit_sums, streamed.shift_unit_sums),
        (9001, 100, streamed.sample_sums, streamed.shift_sample_sums),
    ):
        before = generator.integers(5, size=length)
        after = before.copy()
        moved = np.sort(generator.permutation(length)[: n_moved * times])
        after[moved] = (after[moved] + generator.integers(1, 5, size=len(moved))) % 5
        shifted = sums(before, 5)
        update(shifted, moved, before, after)
        np.testing.assert_allclose(shifted, sums(after, 5), rtol=1e-9, atol=1e-7)
    # Columns that moved are read alone where they are few, once a chunk.
    assert len(calls) == (6 if n_moved in (1, 3) else 0)


def test_principal_components_agree(tmp_path, monkeypatch):
    monkeypatch.setattr(streamed_module, "_TILE_BYTES", 4 * 300 * 7)  # several tiles a chunk
    values = planted_matrix(60, 300, 4, seed=0, strength=2.0)[0] + 10
    store = stored(tmp_path / "acts", values.astype(np.float32), samples_per_chunk=16)
    exact = InMemory(store.matrix().zscore().values).principal_components(3, 0)
    found = Streamed(store, store.fit_zscore()).principal_components(3, 0)
    np.testing.assert_allclose(np.abs(found), np.abs(exact), rtol=1e-2, atol=1e-2)


def test_topics_first_finds_in_a_store_what_it_finds_in_memory(tmp_path):
    values = np.float32(planted_matrix(60, 400, 4, seed=0, strength=1.5)[0] + 10)
    store = stored(tmp_path / "acts", values, samples_per_chunk=16)
    streamed, in_memory = (
        tlm.discover(acts, 4, method="topics_first", progress=False)
        for acts in (store, tlm.ActivationMatrix.from_arrays(values))
    )
    assert adjusted_rand_score(in_memory.sample_labels, streamed.sample_labels) == 1
    assert adjusted_rand_score(in_memory.unit_labels, streamed.unit_labels) > 0.98


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_planted_modules_are_found_in_a_store(dtype, tmp_path):
    values, samples, units = planted_matrix(60, 400, 4, seed=0, strength=1.5)
    values = np.float32(values + 10)
    store = stored(tmp_path / "acts", values, samples_per_chunk=16, dtype=dtype)
    found = tlm.discover(store, 4)
    assert adjusted_rand_score(units, found.unit_labels) > 0.98
    assert adjusted_rand_score(samples, found.sample_labels) == 1
    exact = tlm.discover(tlm.ActivationMatrix.from_arrays(values), 4)
    assert pytest.approx(exact.objective.L, rel=1e-3) == found.objective.L
    scores = [modules.unit_scores for modules in (found, exact)]
    assert np.corrcoef(*scores)[0, 1] > 0.999
    np.testing.assert_allclose(found.normaliser.mean, exact.normaliser.mean, rtol=2e-3)


def test_16_bits_change_a_partitions_l_by_less_than_a_thousandth(acts, tmp_path):
    with tlm.ActivationStore.create(tmp_path / "acts", acts.units) as writer:
        writer.add(acts.values, acts.samples)
    kept = tlm.ActivationStore(tmp_path / "acts").matrix()
    start = np.arange(len(acts.samples)) % 3
    exact, halved = (tlm.iterd(m.zscore().values, 3, sample_labels=start) for m in (acts, kept))
    assert pytest.approx(exact.objective.L, rel=1e-3) == halved.objective.L


@once
def test_the_matrix_is_never_in_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(streamed_module, "_TILE_BYTES", 2**18)
    monkeypatch.setattr(products_module, "N_SOME", 100)
    values = np.random.default_rng(0).gamma(1.0, size=(500, 18_000)).astype(np.float32)
    store = stored(tmp_path / "acts", values, samples_per_chunk=50)
    n_bytes = values.nbytes
    del values
    tlm.discover(store, 2, max_rounds=1)  # compiles and imports
    tracemalloc.start()
    try:
        tlm.discover(store, 2, max_rounds=3)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < n_bytes / 4


def test_starts_and_kicks_on_a_store_lead_to_a_partition_of_the_l_they_say(tmp_path):
    values = np.float32(planted_matrix(60, 160, 4, seed=0, strength=0.3)[0] + 10)
    store = stored(tmp_path / "acts", values, samples_per_chunk=16)
    one, more = (tlm.discover(store, 4, n_starts=n, n_kicks=5 * n - 5) for n in (1, 3))
    assert more.objective.L > one.objective.L
    assert len(more.starts) == 3
    matrix = store.matrix().zscore().values
    afresh = tlm.objective(matrix, more.sample_labels, more.unit_labels, 4)
    assert pytest.approx(afresh.L, rel=1e-5) == more.objective.L


def test_k_is_checked_before_the_store_is_read(tmp_path, monkeypatch):
    store = stored(tmp_path / "acts", np.ones((3, 4), dtype=np.float32))
    monkeypatch.setattr(store, "read_chunk", lambda number: pytest.fail("it was read"))
    with pytest.raises(tlm.ModulesError, match="= 3; got 4"):
        tlm.discover(store, 4)
