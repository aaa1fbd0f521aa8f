import hashlib
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

import tl_modules as tlm
from tl_modules.activations import _half
from tl_modules.activations.normalise import ZScore


def decoded(halves, name):
    half = _half.FORMATS[name]
    out = np.empty(len(halves), dtype=np.float32)
    _half.decode(halves, half.shift, half.scale, out)
    return out


@pytest.fixture
def values():
    generator = np.random.default_rng(0)
    return generator.gamma(1.0, size=(23, 9)).astype(np.float32)


def write(path, values, *, samples=None, unit_means=None, **options):
    units = tlm.Units.anonymous(values.shape[1])
    writer = tlm.ActivationStore.create(path, units, **options)
    writer.add(values, samples)
    writer.unit_means = unit_means
    return writer.close()


@pytest.mark.parametrize("name", ["float16", "bfloat16"])
def test_every_finite_16_bit_value_is_read_exactly(name):
    halves = np.arange(2**16, dtype=np.uint16)
    expected = torch.from_numpy(halves.copy()).view(getattr(torch, name)).float().numpy()
    finite = np.isfinite(expected)
    np.testing.assert_array_equal(decoded(halves, name)[finite], expected[finite])


def test_every_kind_of_float32_is_read_exactly():
    bits = np.random.default_rng(0).integers(0, 2**32, size=10**6, dtype=np.uint32)
    bits[:4] = 0, 0x80000000, 1, 0x80000001  # zeros, and the smallest numbers there are
    values = bits.view(np.float32)
    values = values[np.isfinite(values)][None]
    halves = _half.encode(values, _half.FLOAT32)
    assert decoded(halves[0], "float32").tobytes() == values.tobytes()


@pytest.mark.parametrize("name", ["float16", "bfloat16"])
def test_values_are_rounded_to_the_nearest(name):
    values = np.random.default_rng(0).normal(size=(50, 40)).astype(np.float32) ** 3
    expected = torch.from_numpy(values).to(getattr(torch, name)).float().numpy()
    halves = _half.encode(values, _half.FORMATS[name])
    np.testing.assert_array_equal(decoded(halves.ravel(), name), expected.ravel())


@pytest.mark.parametrize("samples_per_chunk", [1, 5, 23, 100])
def test_what_is_added_in_any_pieces_comes_back(values, samples_per_chunk, tmp_path):
    frame = pd.DataFrame({"prompt": [f"prompt {number}" for number in range(23)]})
    units = tlm.Units.anonymous(9)
    options = {"samples_per_chunk": samples_per_chunk, "model_name": "tiny"}
    with tlm.ActivationStore.create(tmp_path / "acts", units, **options) as writer:
        for rows in np.array_split(np.arange(23), 4):
            writer.add(values[rows], frame.iloc[rows])
    store = tlm.ActivationStore(tmp_path / "acts")
    assert store.shape == (23, 9)
    assert len(store.chunks) == -(-23 // samples_per_chunk)
    acts = store.matrix()
    np.testing.assert_array_equal(acts.values, values.astype(np.float16).astype(np.float32))
    assert acts.samples.equals(frame)
    assert acts.model_name == "tiny"
    store.verify()


def test_chosen_rows_come_in_the_order_asked_for(values, tmp_path):
    store = write(tmp_path / "acts", values, samples_per_chunk=4, unit_means=np.arange(9.0))
    rows = [17, 2, 2, 22]
    some = store.matrix(rows)
    np.testing.assert_array_equal(some.values, store.matrix().values[rows])
    assert some.samples["sample"].tolist() == rows
    assert some.unit_means is not None
    assert some.unit_means.tolist() == list(range(9))
    for wrong in ([23], [-1], []):
        with pytest.raises(tlm.ModulesError, match="rows should be whole numbers from 0 to 22"):
            store.matrix(wrong)


@pytest.mark.parametrize("samples_per_chunk", [1, 7, 23])
def test_the_streamed_zscore_is_the_one_in_memory(values, samples_per_chunk, tmp_path):
    # A large offset: sums of squares would cancel what is left.
    shifted = values + np.float32(900)
    shifted[:, 3] = 5.0
    store = write(tmp_path / "acts", shifted, samples_per_chunk=samples_per_chunk)
    found, expected = store.fit_zscore(), ZScore.fit(store.matrix().values)
    np.testing.assert_allclose(found.mean, expected.mean, rtol=1e-12)
    np.testing.assert_allclose(found.std, expected.std, rtol=1e-9)
    assert found.std[3] == 1.0


def test_an_interrupted_writer_leaves_no_store(values, tmp_path):
    def interrupted():
        with tlm.ActivationStore.create(tmp_path / "acts", tlm.Units.anonymous(9)) as writer:
            writer.add(values)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    with pytest.raises(tlm.ModulesError, match="no finished activation store"):
        tlm.ActivationStore(tmp_path / "acts")


def test_refused_samples_leave_the_store_as_it_was(values, tmp_path):
    writer = tlm.ActivationStore.create(tmp_path / "acts", tlm.Units.anonymous(9))
    writer.add(values[:2])
    bad = values[2:4].copy()
    bad[1, 4] = np.nan
    with pytest.raises(tlm.ModulesError, match="index 4, sample 3 it is nan"):
        writer.add(bad)
    bad[1, 4] = 70_000
    with pytest.raises(tlm.ModulesError, match=r"should fit float16, .* value is 70000.*bfloat16"):
        writer.add(bad)
    with pytest.raises(tlm.ModulesError, match="should have shape samples x 9"):
        writer.add(values[:, :5])
    with pytest.raises(
        tlm.ModulesError, match="samples should have one row per sample, 2; it has 3"
    ):
        writer.add(values[:2], ["a", "b", "c"])
    with pytest.raises(tlm.ModulesError, match="should hold values that JSON can save"):
        writer.add(values[:1], pd.DataFrame({"what": [object()]}))
    writer.add(values[4:])
    np.testing.assert_array_equal(
        writer.close().matrix().values,
        np.delete(values, [2, 3], axis=0).astype(np.float16).astype(np.float32),
    )


def test_what_cannot_begin_is_refused(values, tmp_path):
    units = tlm.Units.anonymous(9)
    write(tmp_path / "acts", values)
    with pytest.raises(tlm.ModulesError, match="should be a new or empty folder"):
        tlm.ActivationStore.create(tmp_path / "acts", units)
    with pytest.raises(
        tlm.ModulesError, match="dtype should be one of 'float16', 'bfloat16', 'float32'"
    ):
        tlm.ActivationStore.create(tmp_path / "new", units, dtype="float8")
    with pytest.raises(tlm.ModulesError, match="samples_per_chunk should be at least 1"):
        tlm.ActivationStore.create(tmp_path / "new", units, samples_per_chunk=0)
    with pytest.raises(tlm.ModulesError, match="whole hook points"):
        tlm.ActivationStore.create(tmp_path / "new", units.select(np.array([1, 2])))
    with pytest.raises(tlm.ModulesError, match="at least one sample"):
        tlm.ActivationStore.create(tmp_path / "new", units).close()
    (tmp_path / "file").write_text("")
    with pytest.raises(tlm.ModulesError, match="Cannot make the folder"):
        tlm.ActivationStore.create(tmp_path / "file", units)


def test_damaged_stores_are_refused(values, tmp_path):
    store = write(tmp_path / "acts", values, samples_per_chunk=10)
    chunk = tmp_path / "acts" / store.chunks[1].name
    whole = chunk.read_bytes()
    flipped = bytearray(whole)
    flipped[-1] ^= 1
    chunk.write_bytes(flipped)
    with pytest.raises(tlm.ModulesError, match="was altered: its checksum does not match"):
        tlm.ActivationStore(tmp_path / "acts").verify()
    for damaged in (whole[:-4], whole[:20], b""):
        chunk.write_bytes(damaged)
        with pytest.raises(tlm.ModulesError, match=r"chunk-00001\.npy"):
            tlm.ActivationStore(tmp_path / "acts")
    chunk.unlink()
    with pytest.raises(tlm.ModulesError, match=r"Cannot read chunk .*chunk-00001\.npy"):
        tlm.ActivationStore(tmp_path / "acts")
    chunk.write_bytes(whole)
    manifest = tmp_path / "acts" / "store.safetensors"
    manifest.write_bytes(manifest.read_bytes().replace(b"float16", b"float61"))
    with pytest.raises(tlm.ModulesError, match="was altered"):
        tlm.ActivationStore(tmp_path / "acts")


def test_a_chunk_of_pickled_objects_is_refused(values, tmp_path):
    store = write(tmp_path / "acts", values)
    np.save(tmp_path / "acts" / store.chunks[0].name, np.array([{"a": 1}], dtype=object))
    with pytest.raises(tlm.ModulesError, match="should hold rows of type float16"):
        tlm.ActivationStore(tmp_path / "acts")


def test_it_shows_itself_in_a_notebook(values, tmp_path):
    frame = pd.DataFrame({"prompt": ["<script>"] * 23})
    store = write(tmp_path / "acts", values, samples=frame)
    assert repr(store).startswith(
        "ActivationStore(mean |activation|: 23 samples x 9 units of unknown, fl"
    )
    assert "<script>" not in store._repr_html_()


def test_a_closed_writer_takes_nothing_more(values, tmp_path):
    writer = tlm.ActivationStore.create(tmp_path / "acts", tlm.Units.anonymous(9))
    with writer:
        writer.add(values)
        writer.unit_means = np.arange(9.0)
        store = writer.close()
    assert store.unit_means is not None
    for more in (lambda: writer.add(values), writer.close):
        with pytest.raises(tlm.ModulesError, match="This writer is closed"):
            more()


def test_after_a_full_disk_the_writer_says_so(values, tmp_path, monkeypatch):
    units = tlm.Units.anonymous(9)
    writer = tlm.ActivationStore.create(tmp_path / "acts", units, samples_per_chunk=5)

    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(np, "save", full)
        with pytest.raises(tlm.ModulesError, match="No space left on device"):
            writer.add(values)
    with pytest.raises(tlm.ModulesError, match="This writer is broken"):
        writer.add(values)
    assert list((tmp_path / "acts").iterdir()) == []


@pytest.mark.parametrize(
    ("name", "bad"), [("float16", 0x7C00), ("bfloat16", 0x7FC1), ("float32", 0xFF800000)]
)
def test_values_that_are_not_finite_are_found_when_read(name, bad, values, tmp_path):
    store = write(tmp_path / "acts", values, dtype=name)
    chunk = tmp_path / "acts" / store.chunks[0].name
    halves = np.load(chunk)
    halves.view(store.half.bits)[4, 2] = bad
    np.save(chunk, halves)
    own = hashlib.sha256(halves.data).hexdigest()
    store.chunks = (replace(store.chunks[0], sha256=own),)
    for read in (store.verify, store.fit_zscore):
        with pytest.raises(tlm.ModulesError, match="should be finite; its row 4"):
            read()


def test_discovery_on_an_altered_chunk_is_refused(values, tmp_path):
    store = write(tmp_path / "acts", values)
    chunk = tmp_path / "acts" / store.chunks[0].name
    chunk.write_bytes(chunk.read_bytes()[:-1] + b"\x00")
    with pytest.raises(tlm.ModulesError, match="was altered"):
        tlm.discover(tlm.ActivationStore(tmp_path / "acts"), 2)


@pytest.mark.parametrize("wrong", [">f2", "<f4", "<u2", "npz"])
def test_chunks_of_another_type_are_refused(wrong, values, tmp_path):
    store = write(tmp_path / "acts", values)
    chunk = tmp_path / "acts" / store.chunks[0].name
    if wrong == "npz":
        with chunk.open("wb") as file:
            np.savez(file, a=values)
    else:
        np.save(chunk, values.astype(wrong))
    with pytest.raises(tlm.ModulesError, match="should hold rows of type float16"):
        tlm.ActivationStore(tmp_path / "acts")


def test_only_the_chunks_asked_for_are_read(values, tmp_path, monkeypatch):
    store = write(tmp_path / "acts", values, samples_per_chunk=4)
    seen = []
    read_chunk = store.read_chunk
    monkeypatch.setattr(store, "read_chunk", lambda n: seen.append(n) or read_chunk(n))
    store.matrix([5, 6, 21])
    assert seen == [1, 5]


def test_bytes_read_are_counted(values, tmp_path):
    store = write(tmp_path / "acts", values, samples_per_chunk=4)
    store.fit_zscore()
    assert store.bytes_read == 2 * values.size
