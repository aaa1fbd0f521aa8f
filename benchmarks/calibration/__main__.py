"""Print how often each kind of p-value is at most 0.05 under its null, and what controls cost.

python -m benchmarks.calibration [--scale 1] [--only layer greedy] [--seed 0] [--no-power]
                                [--out levels.csv]
"""

import argparse
import time
from dataclasses import asdict
from pathlib import Path

import pandas as pd

from benchmarks.calibration.kinds import SIMULATIONS
from benchmarks.calibration.levels import Level
from benchmarks.calibration.power import power_table


def main() -> None:
    """Print one line per kind of test, then the table of powers."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scale", type=float, default=1.0, help="factor of all numbers of runs")
    parser.add_argument("--only", nargs="+", choices=SIMULATIONS, default=[*SIMULATIONS])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--no-power", action="store_true", help="leave out the table of powers")
    parser.add_argument("--out", type=Path, help="a CSV file for the levels")
    args = parser.parse_args()
    print("share of p <= 0.05 [95 % interval], simulations, effectively independent tests")
    rows = []
    for short in args.only:
        simulation = SIMULATIONS[short]
        n = max(4, round(simulation.n * args.scale))
        print(f"\n{short}, seed {args.seed}. Null: {simulation.null}")
        started = time.perf_counter()
        found = simulation.run(n, args.seed)
        print(f"{n:,} simulations in {time.perf_counter() - started:.0f} s")
        for name, p_values in found.items():
            level = Level.of(p_values)
            print(
                f"{name:45s} {level.share:.3f} [{level.low:.3f}, {level.high:.3f}] "
                f"{level.n_simulations:6d} {level.n_effective:6.0f}",
                flush=True,
            )
            rows.append({"kind": name} | asdict(level))
    if args.out is not None:
        pd.DataFrame(rows).to_csv(args.out, index=False)
    if not args.no_power:
        n = max(20, round(2000 * args.scale))
        print("\nPower: the share of sets called selective at 0.05")
        print(power_table(n, args.seed).round(3).to_string())


if __name__ == "__main__":
    main()
