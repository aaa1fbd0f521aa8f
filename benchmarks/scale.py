"""Discovery on a matrix larger than memory would allow, streamed from 16-bit chunks on disk.

Prints time, peak memory and bytes read at the paper's scale, how time grows as samples, units and
modules are doubled in turn, and what 16-bit storage costs in accuracy.

    python -m benchmarks.scale                # 7,000 x 396,288, K = 20: 5.5 GB of disk
    python -m benchmarks.scale --smaller 8    # a quick look
"""

import argparse
import os
import tempfile
import threading
import time
from pathlib import Path

import numpy as np

import tl_modules as tlm
from tl_modules.discovery.from_arrays import iterd
from tl_modules.units import Units

GB = 1e9


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samples", type=int, default=7000)
    parser.add_argument("--units", type=int, default=396_288)
    parser.add_argument("--modules", type=int, default=20)
    parser.add_argument("--dtype", default="float16", choices=["float16", "bfloat16"])
    parser.add_argument("--smaller", type=int, default=1, help="divide samples and units by this")
    parser.add_argument("--folder", type=Path, help="where the matrices go (a temporary folder)")
    parser.add_argument("--acts", type=Path, help="real activations to compare the formats on")
    parser.add_argument("--skip-growth", action="store_true")
    args = parser.parse_args()
    n_samples, n_units = args.samples // args.smaller, args.units // args.smaller
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        warm_up(Path(folder) / "warm")
        for dtype in ("float16", "bfloat16"):
            compare_with_float32(Path(folder), dtype, synthetic(), "synthetic")
            if args.acts is not None:
                acts = tlm.ActivationMatrix.load(args.acts)
                compare_with_float32(Path(folder), dtype, acts, "real")
                del acts  # or it would count below
        if not args.skip_growth:
            growth(Path(folder), n_samples // 4, n_units // 4, args.modules // 2, args.dtype)
        path = Path(folder) / "full"
        print(f"\n{n_samples:,} x {n_units:,}, K = {args.modules}, {args.dtype}")
        store = write(path, n_samples, n_units, args.modules, args.dtype)
        run(store, args.modules, verbose=True)


def write(path: Path, n_samples: int, n_units: int, n_modules: int, dtype: str, seed: int = 0):
    """Make a planted matrix chunk by chunk: |noise|, more where sample and unit share a label.

    How much more is drawn for each unit, so that most lie close to a border, as real ones do.
    """
    generator = np.random.default_rng(seed)
    units = generator.integers(n_modules, size=n_units)
    strength = generator.exponential(0.15, size=n_units).astype(np.float32)
    size = generator.lognormal(sigma=1.0, size=n_units).astype(np.float32)
    rows = max(1, 32 * 1024**2 // (4 * n_units))
    started = time.perf_counter()
    with tlm.ActivationStore.create(path, Units.anonymous(n_units), dtype=dtype) as writer:
        for first in range(0, n_samples, rows):
            samples = (np.arange(first, min(first + rows, n_samples))) % n_modules
            values = np.abs(generator.standard_normal((len(samples), n_units), dtype=np.float32))
            values += strength * (samples[:, None] == units[None, :])
            writer.add(values * size)
    store = tlm.ActivationStore(path)
    n_bytes = sum((path / chunk.name).stat().st_size for chunk in store.chunks)
    seconds = time.perf_counter() - started
    print(f"  written: {n_bytes / GB:.2f} GB in {len(store.chunks)} chunks, {seconds:.0f} s")
    return store


def run(store: tlm.ActivationStore, n_modules: int, verbose: bool = False) -> float:
    """Discover, and print what it took; returns the seconds."""
    evict(store)
    read_before = _proc("io", "read_bytes")
    with Peak() as peak:
        started = time.perf_counter()
        modules = tlm.discover(store, n_modules, progress=False)
        seconds = time.perf_counter() - started
    n_samples, n_units = store.shape
    print(
        f"  {n_samples:,} x {n_units:,}, K = {n_modules}: {seconds:.1f} s, "
        f"{len(modules.history)} rounds, L = {modules.objective.L:,.0f}"
    )
    if verbose:
        from_disk = _proc("io", "read_bytes") - read_before
        print(
            f"  peak resident anonymous memory: {peak.value / GB:.2f} GB (of which before: "
            f"{peak.before / GB:.2f} GB)\n  read: {store.bytes_read / GB:.0f} GB of chunks in all, "
            f"of which {from_disk / GB:.1f} GB from the disk, the rest from the system's file cache"
        )
    return seconds


def growth(folder: Path, n_samples: int, n_units: int, n_modules: int, dtype: str) -> None:
    """How time grows over samples, units and modules, each doubled in turn."""
    print("\nGrowth, each doubled in turn")
    base = None
    for name, n, u, k in (
        ("base", n_samples, n_units, n_modules),
        ("samples x 2", 2 * n_samples, n_units, n_modules),
        ("units x 2", n_samples, 2 * n_units, n_modules),
        ("modules x 2", n_samples, n_units, 2 * n_modules),
    ):
        store = write(folder / name.replace(" ", ""), n, u, n_modules, dtype)
        seconds = run(store, k)
        base = base or seconds
        print(f"  {name}: {seconds / base:.2f} times the base")


def compare_with_float32(folder: Path, dtype: str, acts: tlm.ActivationMatrix, name: str) -> None:
    """L from the same start and orders, from a store and from float32 in memory."""
    with tlm.ActivationStore.create(folder / name / dtype, acts.units, dtype=dtype) as writer:
        writer.add(acts.values)
    kept = tlm.ActivationStore(folder / name / dtype).matrix()
    start = np.random.default_rng(0).integers(10, size=len(acts.samples))
    exact, halved = (
        iterd(matrix.zscore().values, 10, sample_labels=start, max_rounds=100)
        for matrix in (acts, kept)
    )
    fixed = tlm.objective(kept.zscore().values, exact.sample_labels, exact.unit_labels, 10)
    n_samples, n_units = acts.values.shape
    print(
        f"{dtype} against float32, {name} {n_samples:,} x {n_units:,}, K = 10: L of one partition "
        f"changes by {abs(fixed.L / exact.objective.L - 1):.1e}, L at convergence by "
        f"{abs(halved.objective.L / exact.objective.L - 1):.1e} (relative)"
    )


def synthetic() -> tlm.ActivationMatrix:
    """Units of very different scales, with weak blocks."""
    generator = np.random.default_rng(0)
    values = generator.gamma(2.0, size=(700, 5000)).astype(np.float32)
    values += 0.5 * (np.arange(700)[:, None] % 10 == np.arange(5000)[None, :] % 10)
    values *= generator.lognormal(sigma=2.0, size=5000).astype(np.float32)
    return tlm.ActivationMatrix.from_arrays(values)


def warm_up(path: Path) -> None:
    """Compile the kernels, which is not what is measured."""
    with tlm.ActivationStore.create(path, Units.anonymous(64)) as writer:
        writer.add(np.random.default_rng(0).random((40, 64)).astype(np.float32))
    tlm.discover(tlm.ActivationStore(path), 2)


class Peak:
    """The highest resident anonymous memory in a block, looked at a hundred times a second."""

    def __enter__(self) -> "Peak":
        """Begin to look."""
        self.before = self.value = _proc("status", "RssAnon") * 1024
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop looking."""
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(0.01):
            self.value = max(self.value, _proc("status", "RssAnon") * 1024)


def evict(store: tlm.ActivationStore) -> None:
    """Ask the system to forget the store's files, so that the first pass reads the disk."""
    for chunk in store.chunks:
        with (store.path / chunk.name).open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _proc(file: str, field: str) -> int:
    """A number that Linux keeps of this process."""
    for line in (Path("/proc/self") / file).read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1])
    raise SystemExit(f"/proc/self/{file} has no {field}: this benchmark needs Linux")


if __name__ == "__main__":
    main()
