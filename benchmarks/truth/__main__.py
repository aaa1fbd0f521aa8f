"""Whether methods, readings, tests and kinds of control find what is known to be there.

    python -m benchmarks.truth
    python -m benchmarks.truth --quick
    python -m benchmarks.truth FILES --parts recovery power --out table.csv

Without files, the shipped ones are measured. Recovery is the adjusted Rand index of the units'
labels against their owners; false positives are random sets of units that are called selective;
power is the share of true blocks, and of parts of them, that are; precision is of shared units;
cores are the first units of several rankings in modules that discovery found; "set aside" is
recovery of the owned units without the shared ones, "called shared" the sets that are called
shared by all.
"""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from benchmarks.truth import files
from benchmarks.truth.cores import cores
from benchmarks.truth.false_positives import false_positives, power, shared_precision
from benchmarks.truth.files import Truth
from benchmarks.truth.loading import load
from benchmarks.truth.options import BASELINES, CONTROLS, METHODS, READINGS
from benchmarks.truth.recovery import Size, recovery
from benchmarks.truth.shared_sets import called_shared, set_aside
from benchmarks.truth.tables import (
    CANCELLING,
    called_table,
    markdown,
    mean_of_files,
    recovery_tables,
    shared_table,
    shares,
)

PARTS = (
    *("recovery", "false positives", "power", "shared", "cores"),
    *("set aside", "called shared"),
)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("files", nargs="*", type=Path, help="files; the shipped ones by default")
    parser.add_argument("--quick", action="store_true", help="one seed, fewer draws: minutes")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, metavar="PART")
    parser.add_argument("--seeds", type=int, default=3, help="seeds of recovery")
    parser.add_argument("--readings", nargs="+", choices=READINGS, default=READINGS)
    parser.add_argument(
        "--no-unit-ablation",
        action="store_true",
        help="leave out the supervised rival that ablates every unit alone, which takes longest",
    )
    parser.add_argument("--random", type=int, default=60, help="random sets per K and file")
    parser.add_argument("--out", type=Path, help="CSV file for every single figure")
    args = parser.parse_args()
    torch.set_num_threads(1)
    measured = measures(args)
    found: dict[str, list[pd.DataFrame]] = {part: [] for part in args.parts}
    for path in args.files or files.shipped():
        truth = load(path)
        for part in args.parts:
            table = measured[part](truth).assign(part=part, file=truth.name, kind=truth.kind)
            found[part].append(table)
            print(f"{truth.name}: {part} measured", flush=True)
    tables = {part: pd.concat(each) for part, each in found.items()}
    for title, table in printed(tables).items():
        print(f"\n{title}\n\n{markdown(table)}", flush=True)
    if args.out is not None:
        pd.concat(tables.values()).to_csv(args.out, index=False)


def measures(args: argparse.Namespace) -> dict[str, Callable[[Truth], pd.DataFrame]]:
    """How each part is measured, by its name."""
    seeds, n_random, n_draws, kinds = tuple(range(args.seeds)), args.random, 4, CONTROLS
    options: dict[str, Any] = {
        "readings": tuple(args.readings),
        "ablates": not args.no_unit_ablation,
    }
    if args.quick:
        seeds, n_random, n_draws, kinds = (0,), 5, 1, CONTROLS[:1]
        fast = tuple(name for name in BASELINES if name != "agglomerative")
        options |= {"methods": (*METHODS, *fast), "chosen": ("balanced",), "ablates": False}
        options |= {"candidates": range(3, 7), "readings": READINGS[:1]}
    size = Size(seeds=seeds, **options)
    return {
        "recovery": lambda truth: recovery(truth, size),
        "false positives": lambda truth: false_positives(truth, kinds, n_random),
        "power": lambda truth: power(truth, kinds, n_draws),
        "shared": lambda truth: shared_precision(truth, seeds),
        "cores": lambda truth: cores(truth, seeds),
        "set aside": lambda truth: set_aside(truth, seeds),
        "called shared": lambda truth: called_shared(truth, seeds),
    }


def printed(tables: dict[str, pd.DataFrame]) -> dict[str, pd.DataFrame]:
    """The tables to print, by title."""
    found: dict[str, pd.DataFrame] = {}
    if "recovery" in tables:
        found |= recovery_tables(tables["recovery"])
    if "false positives" in tables:
        title = "Random sets of 1/K of the units that are called selective at p <= 0.05"
        found[title] = shares(tables["false positives"], "k")
    if "power" in tables:
        rest = tables["power"][tables["power"]["kind"] != CANCELLING]
        if len(rest):
            found["True blocks, and random parts, that are called selective"] = shares(
                rest, "units"
            )
        apart = tables["power"][tables["power"]["kind"] == CANCELLING]
        if len(apart):
            found["The same where blocks cancel"] = shares(apart, "units")
    if len(tables.get("shared", ())):
        found["Precision of shared_units, at the number of shared units and of those used"] = (
            shared_table(tables["shared"])
        )
    if len(tables.get("set aside", ())):
        found["Adjusted Rand index of the owned units, by what is set aside"] = tables[
            "set aside"
        ].pivot_table(
            index=["file", "method"],
            columns="set aside",
            values="ari",
            aggfunc=mean_of_files,
            sort=False,
        )
    if "called shared" in tables:
        found["Sets that are called shared by all"] = called_table(tables["called shared"])
    if "cores" in tables:
        rest = tables["cores"][tables["cores"]["kind"] != CANCELLING]
        options = {"values": "selectivity", "aggfunc": mean_of_files, "sort": False}
        found["Mean selectivity of the first units of each ranking, nats per token"] = (
            rest.pivot_table(index="ranking", columns="n_units", **options)
        )
    return found


if __name__ == "__main__":
    main()
