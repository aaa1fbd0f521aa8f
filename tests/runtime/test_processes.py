"""Several processes share one run: torch.distributed's ranks over gloo."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import tl_modules as tlm
from tests.activations.test_resume import contents
from tests.conftest import LEGACY
from tests.plain import Plain, digits
from tests.planted import planted_matrix
from tests.runtime.ranks import NAMES, said, script
from tl_modules.activations import chunk_values
from tl_modules.discovery import streamed as streamed_module
from tl_modules.discovery.streamed import Streamed

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.skipif(LEGACY, reason="it needs nothing of TransformerLens")

START = """
import os, sys
sys.path.insert(0, {root!r})
{names}
dist.init_process_group("gloo")
rank = dist.get_rank()
{run}
"""


def command(folder, world, body):
    """How torchrun starts several processes that run a few lines."""
    path = folder / "run.py"
    path.write_text(START.format(root=str(ROOT), names=NAMES, run=script(body)))
    return [
        *(sys.executable, "-m", "torch.distributed.run", "--standalone"),
        *("--nproc-per-node", str(world), str(path)),
    ]


def test_arrays_and_refusals_reach_every_rank(tmp_path):
    body = """
with process_group(True) as processes:
    sent = processes.broadcast(np.arange(6.0).reshape(2, 3) if rank == 0 else None)
    parts = processes.gather(np.full((rank, 2), rank, dtype=np.float32))
    own = processes.scatter([np.array([10 * k]) for k in range(3)])
    processes.wait()
    said = [sent.tolist(), [part.tolist() for part in parts], own.tolist()]
    said.append(processes.from_first(lambda: {"x": 0.1}))
    processes.check_same({"this": "same"})
    try:
        processes.check_same({"this": "same", "that": str(rank > 1)})
    except tlm.ModulesError as error:
        said.append(str(error))
    def refuse():
        raise tlm.ModulesError("no")
    try:
        processes.from_first(refuse)
    except tlm.ModulesError as error:
        said.append(str(error))
"""
    found = said(tmp_path, 3, body)
    for rank in range(3):
        assert found[rank][0] == [[0, 1, 2], [3, 4, 5]]
        assert found[rank][1] == ([] if rank else [[], [[1, 1]], [[2, 2], [2, 2]]])
        assert found[rank][2:4] == [[10 * rank], {"x": 0.1}]
        assert "that differ between rank 2 and rank 0" in found[rank][4]
        assert found[rank][5] == "no"


def test_the_rank_that_is_missing_is_named(tmp_path):
    """Rank 1 does something else until rank 0 has been told that it is missing, and then ends."""
    body = """
from datetime import timedelta
store = dist.distributed_c10d._get_default_store()
with process_group(True) as group:
    group.wait()
    if rank == 1:
        store.wait(["told"], timedelta(minutes=2))
        os._exit(0)
    processes_module.PATIENCE = timedelta(seconds=1)
    said = []
    def told(wait):
        try:
            wait()
        except tlm.ModulesError as error:
            said.append(str(error))
    told(group.wait)  # of this group
    told(wait_for_all)  # of the default group
    processes_module.PATIENCE = timedelta(minutes=2)
    store.set("told", "")
    told(lambda: group.gather(np.zeros(2)))
"""
    found = said(tmp_path, 2, body)
    assert len(found[0]) == 3
    for text in found[0]:
        assert text.startswith("Rank 1 of this run has stopped, or cannot be reached. Read its")


COLLECT = """
model = Plain(delay_s={delay})
options = {{"store": "acts", "batch_size": 2, "distributed": True, "progress": False}}
store = tlm.collect(model, digits({n}), **options)
said = [store.shape, len(store.chunks)]
"""


def alone(monkeypatch, folder, n_prompts):
    """The same store by one process."""
    monkeypatch.setattr(chunk_values, "CHUNK_BYTES", 1)
    monkeypatch.setattr(chunk_values, "LEAST_PROMPTS", 2)
    tlm.collect(Plain(), digits(n_prompts), store=folder, batch_size=2, progress=False)
    return contents(folder)


@pytest.mark.parametrize("world", [2, 4])
def test_ranks_write_the_store_that_one_process_writes(tmp_path, monkeypatch, world):
    found = said(tmp_path, world, COLLECT.format(delay=0, n=13))
    assert found == {rank: [[13, 48], 7] for rank in range(world)}
    assert contents(tmp_path / "acts") == alone(monkeypatch, tmp_path / "alone", 13)


def test_a_killed_rank_leaves_a_store_that_another_number_of_ranks_goes_on_with(
    tmp_path, monkeypatch
):
    body = """
model = Plain(delay_s=0.05)
write = resumable.UnfinishedStore.write
def killed(self, number, *args):
    if rank == 2 and number > 4:
        os.kill(os.getpid(), 9)
    write(self, number, *args)
resumable.UnfinishedStore.write = killed
tlm.collect(model, digits(60), store="acts", batch_size=2, distributed=True, progress=False)
"""
    stopped = subprocess.run(
        command(tmp_path, 4, body), capture_output=True, text=True, cwd=tmp_path, check=False
    )
    assert "Signal 9 (SIGKILL)" in stopped.stderr
    written = set(contents(tmp_path / "acts"))
    assert "store.safetensors" not in written
    assert 4 <= len([name for name in written if name.startswith("chunk-")]) < 30
    found = said(tmp_path, 2, COLLECT.format(delay=0, n=60))
    assert found == {rank: [[60, 48], 30] for rank in range(2)}
    assert contents(tmp_path / "acts") == alone(monkeypatch, tmp_path / "alone", 60)


def test_what_one_rank_finds_wrong_is_said_and_nothing_is_lost(tmp_path):
    different = """
tlm.collect(
    Plain(), digits(8 + rank), store="acts", batch_size=2, distributed=True, progress=False
)
"""
    for text in said(tmp_path, 2, different).values():
        assert text.startswith("refused: Every process should make the same call; prompts")
    assert not (tmp_path / "acts").exists()

    elsewhere = """
os.makedirs(str(rank), exist_ok=True)
os.chdir(str(rank))
tlm.collect(Plain(), digits(8), store="acts", batch_size=2, distributed=True, progress=False)
"""
    found = said(tmp_path, 2, elsewhere)
    assert "rank 1 does not see 'plan.safetensors', which another process wrote" in found[1]
    assert re.match(r"refused: (Another process|Rank 1) of this run has stopped", found[0])

    # The longest prompt, on rank 0, is sound; the second chunk, on rank 1, is not.
    bad = """
prompts = ["1 1 1 1", "1 1 1 3", "1 1 2", "1 3 1", "1 1", "3 1"]
model = Plain(bad_token=2)
if rank == 0:
    import time; time.sleep(1)
tlm.collect(model, prompts, store="bad", batch_size=1, distributed=True, progress=False)
"""
    found = said(tmp_path, 2, bad)
    assert "nan" in found[1]
    assert re.match(r"refused: (Another process|Rank 1) of this run has stopped", found[0])
    left = {name for name in contents(tmp_path / "bad") if name.startswith("done-")}
    assert left == {"done-00000.safetensors", "done-00002.safetensors"}


def test_a_store_is_not_shared_without_being_asked_to(tmp_path):
    body = """
if rank == 0:
    write = resumable.UnfinishedStore.write
    def slow(self, *args):
        dist.barrier()  # it holds the folder: the other's turn
        dist.barrier()
        resumable.UnfinishedStore.write = write
        write(self, *args)
    resumable.UnfinishedStore.write = slow
else:
    dist.barrier()
try:
    tlm.collect(Plain(), digits(4), store="acts", batch_size=2, progress=False)
finally:
    if rank == 1:
        dist.barrier()
"""
    found = said(tmp_path, 2, body)
    assert found[0] is None
    assert "pass distributed=True" in found[1]


def test_distributed_needs_a_process_group_and_a_store(tmp_path):
    with pytest.raises(tlm.ModulesError, match="init_process_group"):
        tlm.collect(Plain(), digits(4), store=tmp_path / "acts", distributed=True, progress=False)
    with pytest.raises(tlm.ModulesError, match="needs a store"):
        tlm.collect(Plain(), digits(4), distributed=True, progress=False)
    assert not (tmp_path / "acts").exists()


def planted_store(folder):
    """A store of more columns than two blocks, in chunks of 7 samples, with planted modules."""
    values = np.float32(planted_matrix(60, 9001, 4, seed=0, strength=0.3)[0] + 10)
    store = tlm.ActivationStore.create(folder, tlm.Units.anonymous(9001), samples_per_chunk=7)
    store.add(values)
    return store.close()


DISCOVER = """
store = tlm.ActivationStore("acts")
found = tlm.discover(store, 4, n_starts=3, n_kicks=2, distributed=True, progress=False)
found.save(f"found{rank}")
options = {"method": "topics_first", "distributed": True, "progress": False}
tlm.discover(store, 4, **options).save(f"topics{rank}")
streamed_module._TILE_BYTES = 4 * 9001 * 3  # three rows at a time
with process_group(True) as processes:
    products = Streamed(store, store.fit_zscore(processes), processes)
    if processes.is_first:
        np.save("points.npy", products.principal_components(16, 0))
        products.stop()
    else:
        products.serve()
"""


@pytest.mark.parametrize("world", [2, 3, 4])
def test_ranks_find_the_modules_that_one_process_finds_to_the_last_bit(
    tmp_path, monkeypatch, world
):
    store = planted_store(tmp_path / "acts")
    expected = tlm.discover(store, 4, n_starts=3, n_kicks=2, progress=False)
    assert set(said(tmp_path, world, DISCOVER)) == set(range(world))
    topics = tlm.discover(store, 4, method="topics_first", progress=False).parts()[1]
    for rank in range(world):
        found = tlm.ModuleSet.load(tmp_path / f"found{rank}")
        assert found.objective == expected.objective
        assert found.history == expected.history
        assert found.starts.equals(expected.starts)
        for name, array in tlm.ModuleSet.load(tmp_path / f"topics{rank}").parts()[1].items():
            np.testing.assert_array_equal(topics[name], array)
        for name, array in expected.parts()[1].items():
            np.testing.assert_array_equal(found.parts()[1][name], array)
    monkeypatch.setattr(streamed_module, "_TILE_BYTES", 4 * 9001 * 3)
    points = Streamed(store, store.fit_zscore()).principal_components(16, 0)
    np.testing.assert_array_equal(np.load(tmp_path / "points.npy"), points)


def test_what_the_ranks_cannot_share_is_refused_by_all(tmp_path):
    planted_store(tmp_path / "acts")
    other = """
tlm.discover(tlm.ActivationStore("acts"), 4 + rank, distributed=True, progress=False)
"""
    for text in said(tmp_path, 2, other).values():
        assert text.startswith("refused: Every process should make the same call; the options")
    chunk = tmp_path / "acts" / "chunk-00001.npy"  # which rank 1 checks
    data = bytearray(chunk.read_bytes())
    data[-1] ^= 1
    chunk.write_bytes(data)
    damaged = "tlm.discover(tlm.ActivationStore('acts'), 4, distributed=True, progress=False)"
    found = said(tmp_path, 2, damaged)
    assert "'chunk-00001.npy' of 'acts' was altered" in found[1]
    assert re.match(r"refused: (Another process|Rank 1) of this run has stopped", found[0])


def test_a_matrix_is_one_processs(acts):
    with pytest.raises(tlm.ModulesError, match="needs an ActivationStore"):
        tlm.discover(acts, 3, distributed=True)


NOTICED = """
import time
store = tlm.ActivationStore("acts")
if rank == 0:
    def broken(*_):
        raise tlm.ModulesError("the disk is gone")
    {broken}
try:
    tlm.discover(store, np.int64(4), method="ulcmod", distributed=True, progress=rank == 0)
except tlm.ModulesError as error:
    said = str(error)
    if rank == 1:
        open("noticed", "w").close()
    stop = time.monotonic() + 60  # rank 0 holds on to the error, and does not end
    while not os.path.exists("noticed") and time.monotonic() < stop:
        time.sleep(0.1)
    said += "; noticed" if os.path.exists("noticed") else "; not noticed"
"""


@pytest.mark.parametrize(
    ("broken", "other"),
    [
        ("streamed_module._stream.sum_columns = broken", "(Another process|Rank 0) of this run"),
        ("search.start_labels = broken", "the disk is gone"),
    ],
    ids=["inside a step", "between steps"],
)
def test_a_refusal_on_rank_0_frees_the_others_at_once(tmp_path, broken, other):
    planted_store(tmp_path / "acts")
    found = said(tmp_path, 2, NOTICED.format(broken=broken))
    assert found[0] == "the disk is gone; noticed"
    assert re.match(other, found[1])


def test_a_refusal_of_one_ranks_prompts_frees_the_others(tmp_path):
    body = """
prompts = digits(8) if rank else []
tlm.collect(Plain(), prompts, store="acts", batch_size=2, distributed=True, progress=False)
"""
    found = said(tmp_path, 2, body)
    assert "prompts should hold at least one prompt" in found[0]
    assert re.match(r"refused: (Another process|Rank 0) of this run has stopped", found[1])
    assert not (tmp_path / "acts").exists()
