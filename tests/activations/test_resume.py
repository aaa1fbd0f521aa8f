"""A collection into a store that was stopped goes on, and ends as if it had not been."""

import hashlib
import os
import shutil
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import tl_modules as tlm
from tests.activations import slow_collection
from tests.conftest import LEGACY, tiny_model
from tests.runtime.ranks import CONTEXT
from tl_modules.activations import (
    batch_runner,
    chunk_values,
    collection,
    finished_chunks,
    resumable,
)
from tl_modules.saving import files


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch):
    monkeypatch.setattr(chunk_values, "CHUNK_BYTES", 1)
    monkeypatch.setattr(chunk_values, "LEAST_PROMPTS", 4)  # four chunks of a batch each


def collected(model, prompts, path, **options):
    options = {"batch_size": 4, "progress": False} | options
    return tlm.collect(model, prompts, store=path, **options)


def contents(folder):
    """Every file's bytes, but for the locks, which are empty and no part of the store."""
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.iterdir()
        if not path.name.startswith(".lock")
    }


@contextmanager
def stopped_after(n_chunks, monkeypatch):
    """The power goes out as the next chunk is to be written."""
    write, written = resumable.UnfinishedStore.write, []

    def stopping(self, *args):
        if len(written) == n_chunks:
            raise KeyboardInterrupt
        write(self, *args)
        written.append(args[0])

    with monkeypatch.context() as patched:
        patched.setattr(resumable.UnfinishedStore, "write", stopping)
        with pytest.raises(KeyboardInterrupt):
            yield


@pytest.fixture
def undisturbed(model, prompts, tmp_path):
    folder = tmp_path / "undisturbed"
    collected(model, prompts, folder)
    return contents(folder)


@pytest.mark.parametrize("n_chunks", [0, 1, 3])
def test_a_stopped_run_goes_on_and_ends_with_the_same_bytes(
    model, prompts, tmp_path, undisturbed, n_chunks, monkeypatch
):
    folder = tmp_path / "acts"
    with stopped_after(n_chunks, monkeypatch):
        collected(model, prompts, folder)
    with pytest.raises(tlm.ModulesError, match="no finished activation store"):
        tlm.ActivationStore(folder)
    runs = []
    values = batch_runner.batch_values
    monkeypatch.setattr(
        batch_runner, "batch_values", lambda *args: runs.append(args[1]) or values(*args)
    )
    store = collected(model, prompts, folder)
    assert len(runs) == 4 - n_chunks  # what was there is not run again
    assert contents(folder) == undisturbed
    store.verify()


def test_a_finished_store_is_returned_as_it_is(model, prompts, tmp_path, monkeypatch):
    first = collected(model, prompts, tmp_path / "acts")
    before = contents(tmp_path / "acts")
    monkeypatch.setattr(batch_runner, "batch_values", None)  # nothing runs
    again = collected(model, prompts, tmp_path / "acts")
    np.testing.assert_array_equal(again.matrix().values, first.matrix().values)
    assert contents(tmp_path / "acts") == before


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"batch_size": 3}, "batch_size"),
        ({"max_tokens": 3}, "tokens"),
        ({"dtype": "bfloat16"}, "dtype"),
        ({"units": "resid"}, "units"),
        ({"aggregate": "rms"}, "reading"),
        ({"prompts": "changed"}, "prompts"),
        ({"model": "changed"}, "the model's weights"),
    ],
)
@pytest.mark.parametrize("finished", [True, False])
def test_another_run_is_refused_never_mixed(
    model, prompts, tmp_path, change, named, finished, monkeypatch
):
    folder = tmp_path / "acts"
    if finished:
        collected(model, prompts, folder)
    else:
        with stopped_after(2, monkeypatch):
            collected(model, prompts, folder)
    before, change = contents(folder), dict(change)
    if change.pop("prompts", None):
        prompts = prompts.assign(category="other")
    if change.pop("model", None):
        model = tiny_model(seed=1)
    with pytest.raises(tlm.ModulesError, match=rf"begun with other settings: .*{named}.* differ"):
        collected(model, prompts, folder, **change)
    assert contents(folder) == before


def test_settings_may_change_while_nothing_was_collected(model, prompts, tmp_path, monkeypatch):
    with stopped_after(0, monkeypatch):
        collected(model, prompts, tmp_path / "acts", batch_size=3)
    assert collected(model, prompts, tmp_path / "acts").shape == (16, 36)


@pytest.mark.parametrize(
    "damage", ["truncated", "flipped", "missing", "its note", "its sums", "no note"]
)
def test_a_damaged_chunk_is_collected_anew(
    model, prompts, tmp_path, undisturbed, damage, monkeypatch
):
    folder = tmp_path / "acts"
    with stopped_after(3, monkeypatch):
        collected(model, prompts, folder)
    chunk, note = folder / "chunk-00001.npy", folder / "done-00001.safetensors"
    data = bytearray(chunk.read_bytes())
    if damage == "truncated":
        chunk.write_bytes(data[:-5])
    elif damage == "flipped":
        data[-3] ^= 1
        chunk.write_bytes(data)
    elif damage == "missing":
        chunk.unlink()
    elif damage == "its note":
        note.write_bytes(note.read_bytes()[:-2])
    elif damage == "its sums":  # finite, and more than float32 activations add up to
        kind = finished_chunks.FILE_KIND
        header, totals = files.read(
            note, kind, lambda *parts: (parts[0], parts[1]["totals"]), lambda _: {"totals": (2, 36)}
        )
        header = {name: header[name] for name in ("chunk", "n_tokens")}
        files.write(note, kind, header, {"totals": totals + 1e300})
    else:
        note.unlink()
    collected(model, prompts, folder)
    assert contents(folder) == undisturbed


def test_what_a_killed_run_left_half_written_is_cleared_away(
    model, prompts, tmp_path, undisturbed, monkeypatch
):
    folder = tmp_path / "acts"
    with stopped_after(2, monkeypatch):
        collected(model, prompts, folder)
    (folder / ".chunk-00002.npy.0a1b2c3d.part").write_bytes(b"half")
    collected(model, prompts, folder)
    assert contents(folder) == undisturbed


def test_a_run_killed_as_it_wrote_its_plan_is_begun_again(model, prompts, tmp_path, undisturbed):
    folder = tmp_path / "acts"
    folder.mkdir()
    (folder / ".lock").write_bytes(b"")
    (folder / ".plan.safetensors.0a1b2c3d.part").write_bytes(b"half")
    collected(model, prompts, folder)
    assert contents(folder) == undisturbed


def test_a_folder_of_other_files_is_refused(model, prompts, tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(tlm.ModulesError, match="it holds other files"):
        collected(model, prompts, tmp_path)
    assert contents(tmp_path).keys() == {"mine.txt"}


def test_two_runs_do_not_write_to_one_folder(model, prompts, tmp_path):
    collected(model, prompts, tmp_path / "other")
    plan = {}

    class Watched(resumable.UnfinishedStore):
        def __init__(self, path, given, *processes):
            super().__init__(path, given, *processes)
            plan["plan"] = given

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(collection, "UnfinishedStore", Watched)
        collected(model, prompts, tmp_path / "more")
    with (
        resumable.UnfinishedStore(tmp_path / "acts", plan["plan"]),
        pytest.raises(tlm.ModulesError, match="Another process is writing"),
    ):
        collected(model, prompts, tmp_path / "acts")
    assert collected(model, prompts, tmp_path / "acts").shape == (16, 36)


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory):
    """What a collection holds that nothing stopped, and the seconds that it took."""
    folder = tmp_path_factory.mktemp("whole") / "acts"
    process, start = begun(folder), time.perf_counter()
    process.join()
    assert process.exitcode == 0
    return contents(folder), time.perf_counter() - start


def begun(folder):
    """A process that collects into a folder, from the moment at which it begins to."""
    CONTEXT.set_forkserver_preload(["tests.runtime.preloaded"])
    ready = CONTEXT.Event()
    process = CONTEXT.Process(target=slow_collection.run, args=(str(folder), ready))
    process.start()
    assert ready.wait(120)
    return process


def ended(folder):
    """What the folder holds after a collection that nothing stops."""
    process = begun(folder)
    process.join()
    assert process.exitcode == 0
    return contents(folder)


@pytest.mark.slow
@pytest.mark.skipif(LEGACY, reason="minutes long, and it needs nothing of TransformerLens")
def test_a_run_killed_at_20_random_moments_ends_with_the_same_bytes(tmp_path, whole_run):
    expected, whole = whole_run
    generator, folder = np.random.default_rng(0), tmp_path / "acts"
    kills, there = 0, []
    while kills < 20:
        process = begun(folder)
        time.sleep(float(generator.uniform(0, whole)))
        process.kill()
        process.join()
        if process.exitcode == 0:  # faster than the signal: begin once more
            assert contents(folder) == expected
            folder = tmp_path / f"again{kills}"
        kills += 1
        there.append(len(list(folder.glob("done-*"))) if folder.exists() else 0)
    assert ended(folder) == expected
    assert len({n for n in there if 0 < n < 60}) > 3  # it was killed in the middle


LIMITED = """
import resource, sys
from tests.activations import slow_collection
resource.setrlimit(resource.RLIMIT_FSIZE, (700, 700))
slow_collection.run(sys.argv[1])
"""
FULL = """
import shutil, subprocess, sys
from tests.activations import slow_collection
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=40k", "tmpfs", sys.argv[1]], check=True)
try:
    slow_collection.run(sys.argv[1])
finally:
    shutil.copytree(*sys.argv[1:])
"""


def errors_of(*command):
    """What a command of this project writes to stderr."""
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=Path(__file__).parents[2], check=False
    )
    return done.stderr


@pytest.mark.slow
def test_a_full_disk_ends_in_an_error_and_the_run_goes_on_with_room(tmp_path, whole_run):
    folder = tmp_path / "acts"
    # No file may be longer than 700 bytes: the list of chunks is.
    errors = errors_of(sys.executable, "-c", LIMITED, str(folder))
    assert "ModulesError: Cannot write" in errors
    assert not [name for name in contents(folder) if name.endswith(".part")]
    assert ended(folder) == whole_run[0]


def may_mount():
    """Whether a small disk of its own can be made here."""
    words = ["unshare", "-rm", "mount", "-t", "tmpfs", "tmpfs", "/mnt"]
    return shutil.which("unshare") is not None and not subprocess.run(words, check=False).returncode


@pytest.mark.slow
@pytest.mark.skipif(LEGACY or not may_mount(), reason="no small disk can be mounted here")
def test_a_disk_that_fills_up_ends_in_an_error_and_keeps_whole_chunks(tmp_path, whole_run):
    folder, kept = tmp_path / "disk", tmp_path / "kept"
    folder.mkdir()
    errors = errors_of("unshare", "-rm", sys.executable, "-c", FULL, str(folder), str(kept))
    assert "No space left on device" in errors
    assert "ModulesError: Cannot write" in errors
    names = set(contents(kept))
    chunks = {name[6:11] for name in names if name.startswith("chunk-")}
    notes = {name[5:10] for name in names if name.startswith("done-")}
    assert len(notes) > 3
    assert notes <= chunks
    assert len(chunks - notes) <= 1
    assert not [name for name in names if name.endswith(".part")]
    assert ended(kept) == whole_run[0]  # on a disk with room


@pytest.mark.skipif(not Path("/sys/kernel").is_dir(), reason="it is Linux's own read-only folder")
def test_a_read_only_folder_is_refused_root_or_not(model, prompts):
    with pytest.raises(tlm.ModulesError, match="Cannot write to the folder '/sys/kernel/acts'"):
        collected(model, prompts, "/sys/kernel/acts")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_may_not_be_written_to_is_refused(model, prompts, tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(tlm.ModulesError, match="Cannot write to the folder"):
        collected(model, prompts, tmp_path / "acts")


def test_a_folder_that_cannot_be_made_is_refused(model, prompts, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(tlm.ModulesError, match="Cannot write to the folder"):
        collected(model, prompts, tmp_path / "file" / "acts")


def test_prompts_are_told_apart_by_all_their_columns(model, tmp_path):
    frame = pd.DataFrame({"prompt": ["the cat", "a dog"], "category": ["x", "y"]})
    collected(model, frame, tmp_path / "acts")
    with pytest.raises(tlm.ModulesError, match="prompts differ"):
        collected(model, frame.assign(category=["y", "x"]), tmp_path / "acts")
