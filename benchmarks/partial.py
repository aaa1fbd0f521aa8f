"""What selectivity says of sets that hold only a part of a true module.

    python -m benchmarks.partial FILE.safetensors ... [--repeats 6] [--controls 39] [--seed 0]

FILE is a model of known truth, beside a ``truth_models.py`` that loads it: each neuron has an
owner, one of the tasks, or -1 for neurons that all tasks need. The script tests sets as large as a
task's block: the block itself, sets of which a half, a quarter or a tenth are the block's neurons
and the rest are other neurons, and random sets; also the shared neurons, once per task as their own
category. It prints the share of each that is selective at p <= 0.05.
"""

import argparse
import importlib.util
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd
from scipy.stats import binomtest

import tl_modules as tlm

SHARES = {"whole block": 1.0, "a half": 0.5, "a quarter": 0.25, "a tenth": 0.1}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--repeats", type=int, default=6, help="sets of each kind per task")
    parser.add_argument("--controls", type=int, default=39)
    parser.add_argument("--kind", default="layer", help="kind of control")
    parser.add_argument("--prompts", type=int, default=6, help="tested prompts per task")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    rows = []
    for path in args.files:
        rows.append(tested(path, args))
        print_shares(path.stem, rows[-1])
    print_shares("all files", pd.concat(rows))


def print_shares(name: str, rows: pd.DataFrame) -> None:
    """Print the share of each kind of set that is selective, with its 95 % interval."""
    print(f"\n{name}")
    for kind, passed in rows.groupby("set", sort=False)["selective"]:
        low, high = binomtest(int(passed.sum()), len(passed)).proportion_ci(method="wilson")
        share = f"{passed.mean():.2f} [{low:.2f}, {high:.2f}]"
        print(f"  {kind:14} selective {share} of {len(passed)}", flush=True)


def tested(path: Path, args: argparse.Namespace) -> pd.DataFrame:
    """One row per set of one model: its kind, and whether it is selective."""
    truth = truth_module(path.with_name("truth_models.py"))
    model, owner, tables = truth.load(path)
    n_tasks = len(tables)
    acts = tlm.collect(
        model, truth.prompts(tables, (40,) * n_tasks, args.seed), batch_size=64, progress=False
    )
    prompts = truth.prompts(tables, (args.prompts,) * n_tasks, args.seed + 1)
    names = acts.samples["category"].unique()
    generator = np.random.default_rng(args.seed)
    kinds, modules = [], []
    for kind, task, units in sets(owner, n_tasks, args.repeats, generator):
        samples = acts.samples[acts.samples["category"] == names[task]]
        modules.append(tlm.Module(len(modules), acts.units.select(units), samples, means=acts))
        kinds.append(kind)
    effects = tlm.module_effects(
        model,
        modules,
        prompts,
        n_controls=args.controls,
        controls=args.kind,
        seed=args.seed,
        batch_size=600,
    ).drop_duplicates("module")
    selective = effects["selectivity_p_value"].to_numpy() <= 0.05 + 1e-9
    return pd.DataFrame({"set": kinds, "selective": selective})


def sets(
    owner: np.ndarray, n_tasks: int, repeats: int, generator: np.random.Generator
) -> Iterator[tuple[str, int, np.ndarray]]:
    """Each set's kind, its own task, and its units' numbers."""
    for task in range(n_tasks):
        own, others = np.flatnonzero(owner == task), np.flatnonzero(owner != task)
        for kind, share in SHARES.items():
            n_own = round(share * len(own))
            for _ in range(repeats if share < 1 else 1):
                units = generator.permutation(own)[:n_own]
                rest = generator.permutation(others)[: len(own) - n_own]
                yield kind, task, np.sort(np.concatenate([units, rest]))
        for _ in range(repeats):
            yield "random", task, np.sort(generator.permutation(len(owner))[: len(own)])
        if (owner < 0).any():
            yield "shared block", task, np.flatnonzero(owner < 0)


def truth_module(path: Path) -> ModuleType:
    """The file that loads the models, as a module."""
    spec = importlib.util.spec_from_file_location("truth_models", path)
    if spec is None or spec.loader is None:
        raise SystemExit(f"{path} is missing: it loads the models beside it.")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


if __name__ == "__main__":
    main()
