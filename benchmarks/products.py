"""The sums of one round of IterD, by the compiled loops and by torch on a device, in one run.

    python -m benchmarks.products --device cuda                 # 7,000 x 396,288, K = 20: 22 GB
    python -m benchmarks.products --device cpu --smaller 16     # a quick look

Prints the seconds of the two products of a round and of their updates after some items moved, the
largest difference of a sum as a share of the bound that ``OnDevice`` states, and a whole search by
both. ``--device cpu`` compares torch's CPU kernels with the compiled loops.
"""

import argparse
import time
from collections.abc import Callable

import numpy as np
import torch

from tl_modules.discovery.descent import descend
from tl_modules.discovery.on_device import OnDevice, checked_device
from tl_modules.discovery.products import InMemory, Products

MOVED = 0.1
"""Share of the samples and of the units that move before an update."""


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--samples", type=int, default=7000)
    parser.add_argument("--units", type=int, default=396_288)
    parser.add_argument("--modules", type=int, default=20)
    parser.add_argument("--smaller", type=int, default=1, help="divide samples and units by this")
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    shape = (args.samples // args.smaller, args.units // args.smaller)
    generator = np.random.default_rng(0)
    samples, units = (generator.integers(args.modules, size=length) for length in shape)
    matrix = generator.standard_normal(shape, dtype=np.float32)
    for row, label in zip(matrix, samples, strict=True):
        row += np.float32(0.3) * (units == label)
    in_memory = InMemory(matrix)
    started = time.perf_counter()
    on = OnDevice(in_memory, args.modules, checked_device(args.device))
    print(
        f"{shape[0]:,} x {shape[1]:,} float32, K = {args.modules}, {args.device}; copied in "
        f"{time.perf_counter() - started:.2f} s"
    )
    compile_all(in_memory, args.modules)
    compile_all(on, args.modules)
    for name, call in steps(samples, units, args.modules, generator).items():
        loops, torchs = (fastest(call, products, args.repeats) for products in (in_memory, on))
        print(f"{name:22} loops {loops:.4f} s, torch {torchs:.4f} s, ratio {loops / torchs:.1f}")
    labels = generator.integers(args.modules, size=shape[0])
    for name, products in (("loops", in_memory), ("torch", on)):
        started = time.perf_counter()
        found = descend(products, args.modules, labels.copy(), max_rounds=100, seed=0)
        print(
            f"IterD from random labels, {name}: {time.perf_counter() - started:.2f} s, "
            f"{len(found.history)} rounds, L = {found.objective.L:,.2f}"
        )
    print(
        f"largest difference of a sum: {difference(in_memory, on, samples, units):.1e} of the bound"
    )


def steps(
    samples: np.ndarray, units: np.ndarray, n_modules: int, generator: np.random.Generator
) -> dict[str, Callable[[Products], object]]:
    """What a round may compute, by name."""
    of_units = np.zeros((len(units), n_modules))
    of_samples = np.zeros((len(samples), n_modules))
    sample_moves, unit_moves = (moves(labels, n_modules, generator) for labels in (samples, units))
    return {
        "sums of units": lambda products: products.unit_sums(samples, n_modules),
        "sums of samples": lambda products: products.sample_sums(units, n_modules),
        "update, samples moved": lambda products: products.shift_unit_sums(of_units, *sample_moves),
        "update, units moved": lambda products: products.shift_sample_sums(of_samples, *unit_moves),
    }


def moves(
    labels: np.ndarray, n_modules: int, generator: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Some items, all items' labels before their move, and after it."""
    moved = np.flatnonzero(generator.random(len(labels)) < MOVED)
    after = labels.copy()
    after[moved] = (after[moved] + 1) % n_modules
    return moved, labels, after


def fastest(call: Callable[[Products], object], products: Products, repeats: int) -> float:
    """The least seconds of several calls; results are on the host, so a device has finished."""
    seconds = []
    for _ in range(repeats):
        started = time.perf_counter()
        call(products)
        seconds.append(time.perf_counter() - started)
    return min(seconds)


def difference(in_memory: InMemory, on: OnDevice, samples: np.ndarray, units: np.ndarray) -> float:
    """The largest difference of a sum by both, as a share of the stated bound.

    The bound takes the sum of magnitudes, so the matrix is replaced by its absolute values.
    """
    n_modules = int(max(samples.max(), units.max())) + 1
    sums = [p.unit_sums(samples, n_modules) for p in (in_memory, on)]
    others = [p.sample_sums(units, n_modules) for p in (in_memory, on)]
    np.abs(in_memory.matrix, out=in_memory.matrix)
    sizes = in_memory.unit_sums(samples, n_modules), in_memory.sample_sums(units, n_modules)
    shares = []
    for (one, other), size, labels in zip((sums, others), sizes, (samples, units), strict=True):
        counts = np.bincount(labels, minlength=n_modules)
        bound = np.maximum(counts * 2.0**-52 * size, np.finfo(float).tiny)
        shares.append(float((np.abs(one - other) / bound).max()))
    return max(shares)


def compile_all(products: Products, n_modules: int) -> None:
    """Call each kind of sum once: compiling and a device's first use do not count."""
    n_samples, n_units = products.shape
    samples, units = np.arange(n_samples) % n_modules, np.arange(n_units) % n_modules
    generator = np.random.default_rng(0)
    for call in steps(samples, units, n_modules, generator).values():
        call(products)


if __name__ == "__main__":
    main()
