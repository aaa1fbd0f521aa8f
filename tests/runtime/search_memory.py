"""Prints how much memory a search takes, as a share of what was estimated, in memory and streamed.

Run as a program: in a process that has done other work, the allocator may have kept freed blocks.
"""

import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

import tl_modules as tlm
from tl_modules.discovery.products import in_memory_bytes
from tl_modules.discovery.streamed import streamed_bytes
from tl_modules.runtime.peak_memory import PeakMemory


def shares(shape, n_modules, folder):
    """The shares, each of a second search: the first one compiles."""
    values = np.random.default_rng(0).random(shape, dtype=np.float32)
    acts = tlm.ActivationMatrix.from_arrays(values)
    with tlm.ActivationStore.create(folder, acts.units) as writer:
        writer.add(acts.values)
    for of, estimate in (
        (acts, in_memory_bytes(shape, n_modules, 1)),
        (tlm.ActivationStore(folder), streamed_bytes(shape, n_modules, components=False)),
    ):
        tlm.discover(of, n_modules, max_rounds=1, progress=False)
        with PeakMemory() as peak:
            tlm.discover(of, n_modules, max_rounds=3, progress=False)
        yield peak.bytes / estimate


if __name__ == "__main__":
    n_samples, n_units, n_modules = map(int, sys.argv[1:])
    with TemporaryDirectory() as folder:
        for share in shares((n_samples, n_units), n_modules, Path(folder) / "acts"):
            sys.stdout.write(f"{share}\n")
