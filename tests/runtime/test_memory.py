"""Work that will not fit is refused before it starts, by estimates that hold."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import tl_modules as tlm
from tests.conftest import once
from tl_modules.discovery import from_activations, search
from tl_modules.discovery.products import in_memory_bytes
from tl_modules.runtime import memory

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("size", "n_bytes"),
    [
        (5, 5),
        (2.5e9, 2_500_000_000),
        ("4 GB", 4_000_000_000),
        ("1.5mb", 1_500_000),
        ("7", 7),
        ("2 GiB", 2**31),
    ],
)
def test_sizes_are_read(size, n_bytes):
    assert memory.budget(size) == n_bytes


@pytest.mark.parametrize(
    "size", ["", "0 GB", "4 gigs", "GB", "-1", 0, -3, float("nan"), float("inf"), True]
)
def test_what_is_no_size_is_refused(size):
    with pytest.raises(tlm.ModulesError, match="max_memory should be a number of bytes above 0"):
        memory.budget(size)


def test_by_default_the_machine_is_the_budget():
    assert 0 < memory.budget(None) < 1e15
    memory.check_memory("This", 1000, None, "")
    with pytest.raises(tlm.ModulesError, match=r"This takes about 1,000,000.00 GB .* is free here"):
        memory.check_memory("This", 10**15, None, "")


@pytest.fixture(scope="module")
def random_acts():
    values = np.random.default_rng(0).random((120, 3000), dtype=np.float32)
    return tlm.ActivationMatrix.from_arrays(values)


def test_a_search_that_does_not_fit_is_refused(random_acts, tmp_path, monkeypatch):
    monkeypatch.setattr(from_activations, "search", None)  # nothing starts
    with pytest.raises(
        tlm.ModulesError, match=r"takes about \d+\.\d\d MB of memory; 1\.00 MB max_memory allows"
    ):
        tlm.discover(random_acts, 4, max_memory="1 MB")
    with tlm.ActivationStore.create(tmp_path / "acts", random_acts.units) as writer:
        writer.add(random_acts.values)
    store = tlm.ActivationStore(tmp_path / "acts")
    with pytest.raises(tlm.ModulesError, match=r"A search over a store takes about 0\.14 GB"):
        tlm.discover(store, 4, max_memory="100 MB")


def test_fewer_starts_run_at_once_where_memory_is_short(random_acts, monkeypatch):
    jobs = []
    pool = search.ThreadPoolExecutor
    monkeypatch.setattr(
        search, "ThreadPoolExecutor", lambda n_jobs: jobs.append(n_jobs) or pool(n_jobs)
    )
    room = in_memory_bytes((120, 3000), 4, 2)
    found = [
        tlm.discover(
            random_acts, 4, n_starts=3, n_jobs=3, max_memory=max_memory, progress=False
        ).objective
        for max_memory in (room, room - 1, room * 10)
    ]
    assert jobs == [2, 1, 3]
    assert found[0] == found[1] == found[2]


def test_units_to_set_aside_need_memory_for_another_copy(random_acts):
    shared = random_acts.units.select(np.arange(5))
    room = in_memory_bytes((120, 3000), 4, 1)
    options = {"max_memory": room, "progress": False}
    assert len(tlm.discover(random_acts, 4, **options)) == 4
    with pytest.raises(tlm.ModulesError, match="A search over a matrix in memory takes about"):
        tlm.discover(random_acts, 4, shared=shared, **options)


@once
@pytest.mark.slow
# The second search's arrays of sums take more than 32 MiB each. glibc may keep smaller blocks after
# they are freed, and the peak then differs from run to run.
@pytest.mark.parametrize(("shape", "n_modules"), [((400, 40_000), 20), ((200, 48_000), 100)])
def test_the_estimates_are_near_what_a_search_takes(shape, n_modules):
    words = [sys.executable, "-m", "tests.runtime.search_memory", *map(str, (*shape, n_modules))]
    done = subprocess.run(words, capture_output=True, text=True, check=True, cwd=ROOT)
    shares = [float(line) for line in done.stdout.split()]
    assert len(shares) == 2
    assert all(0.3 < share < 1.1 for share in shares), shares
