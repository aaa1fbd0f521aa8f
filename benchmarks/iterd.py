"""How fast IterD is, against the published loop, measured in one run.

    python -m benchmarks.iterd [--samples 1400] [--units 46080] [--modules 10]

The published loop (``tests/discovery/oracles.py``) runs on a slice of the visits of one round and
is extrapolated to five rounds; the compiled path runs to convergence. Both from the same start.
"""

import argparse
import time
from collections import defaultdict

import numpy as np

from tests.discovery.oracles import published_sweep
from tests.planted import planted_matrix
from tl_modules.discovery import _kernel
from tl_modules.discovery.descent import strongest_labels
from tl_modules.discovery.from_arrays import iterd
from tl_modules.discovery.products import InMemory
from tl_modules.discovery.start import start_labels, start_points

MOVES_BYTES = ("unit_sums", "sample_sums", "shift_unit_sums", "shift_sample_sums")


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, default=1400)
    parser.add_argument("--units", type=int, default=46_080)
    parser.add_argument("--modules", type=int, default=10)
    parser.add_argument("--slice", type=int, default=1000, help="unit visits of the published loop")
    parser.add_argument("--strength", type=float, default=0.3, help="of the planted blocks")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    matrix, _, _ = planted_matrix(
        args.samples, args.units, args.modules, args.seed, strength=args.strength
    )
    matrix = matrix.astype(np.float32)
    print(f"matrix {args.samples} x {args.units} float32, K = {args.modules}, seed {args.seed}")
    iterd(matrix[:20, :50], 2)  # compile

    started = time.perf_counter()
    start_labels(start_points(InMemory(matrix), args.seed), "kmeans", args.modules, args.seed)
    print(f"start labels: {time.perf_counter() - started:.2f} s")
    # A harder start than the planted truth that k-means finds at once.
    samples = np.random.default_rng(args.seed).integers(0, args.modules, args.samples)

    seconds = timed_kernels()
    started = time.perf_counter()
    found = iterd(matrix, args.modules, sample_labels=samples, max_rounds=1000, seed=args.seed)
    total = time.perf_counter() - started
    moving = sum(seconds[name] for name in MOVES_BYTES)
    print(
        f"compiled, random start to convergence: {total:.3f} s, {len(found.history)} rounds, "
        f"L = {found.objective.L:,.1f}"
    )
    for name, spent in sorted(seconds.items(), key=lambda item: -item[1]):
        print(f"  {name:18s} {spent:.3f} s")
    print(f"  moving bytes (products and their updates): {moving / total:.0%} of the time")

    units = strongest_labels(InMemory(matrix).unit_sums(samples, args.modules), samples)
    generator = np.random.default_rng(args.seed)
    unit_visits = generator.permutation(args.units)[: args.slice]
    sample_visits = generator.permutation(args.samples)[: max(args.slice // 20, 1)]
    by_unit = np.ascontiguousarray(matrix.T)
    per_unit = per_visit(by_unit, units.copy(), samples, unit_visits, args.modules)
    per_sample = per_visit(matrix, samples.copy(), units, sample_visits, args.modules)
    five = 5 * (per_unit * args.units + per_sample * args.samples)
    print(
        f"published loop, 5 rounds: {five:.0f} s, extrapolated from {len(unit_visits)} unit visits "
        f"({1e6 * per_unit:.0f} us each) and {len(sample_visits)} sample visits "
        f"({1e6 * per_sample:.0f} us each)"
    )
    print(f"ratio (published loop's 5 rounds / compiled to convergence): {five / total:.0f}")


def timed_kernels() -> dict[str, float]:
    """Wrap the kernels so that each adds its time to the dictionary returned."""
    seconds: dict[str, float] = defaultdict(float)

    def timed(kernel, name):
        def call(*args):
            started = time.perf_counter()
            result = kernel(*args)
            seconds[name] += time.perf_counter() - started
            return result

        return call

    _kernel.sweep = timed(_kernel.sweep, "sweep")
    _kernel.PARALLEL = _kernel.Kernels(
        **{name: timed(kernel, name) for name, kernel in vars(_kernel.PARALLEL).items()}
    )
    return seconds


def per_visit(matrix, labels, others, order, n_modules) -> float:
    """Seconds a visit of the published loop, its set-up taken off."""
    started = time.perf_counter()
    published_sweep(matrix, labels, others, order[:0], n_modules)
    setup = time.perf_counter() - started
    started = time.perf_counter()
    published_sweep(matrix, labels, others, order, n_modules)
    return max(time.perf_counter() - started - setup, 1e-9) / len(order)


if __name__ == "__main__":
    main()
