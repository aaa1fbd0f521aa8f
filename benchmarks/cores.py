"""Cores of the demo model's modules beside what other rankings take, at several sizes.

    python -m benchmarks.cores [--modules 7] [--choosing 4] [--testing 5] [--controls 0]
    python -m benchmarks.cores --figure docs/images/cores.png
    python -m benchmarks.cores --twin
    python -m benchmarks.cores --modules 10 --merge    # one module per category

Modules are discovered on the project's prompts, but for the last 12 of each category: the first of
these choose, and with ``--choosing`` above 12 some that discovery saw. Prompts of other sources
test, where the file beside the project has them, and the others of the last 12 otherwise.
"""

import argparse
import warnings
from pathlib import Path

import pandas as pd

import tl_modules as tlm
from benchmarks.neighbours import draw
from benchmarks.search import PUBLIC
from tl_modules.data import load_prompts
from tl_modules.data.models import load_model

HELD_OUT = 12


def main() -> None:
    """Print the tables, and draw the curve."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_setting(parser, modules=7, choosing=4, testing=5)
    parser.add_argument("--sizes", type=int, nargs="+", default=[100, 400, 1600])
    parser.add_argument("--controls", type=int, default=0, help="per kind, module and size")
    parser.add_argument("--twin", action="store_true", help="the same on random weights too")
    parser.add_argument("--figure", type=Path)
    parser.add_argument("--out", type=Path, help="CSV file for the whole table")
    args = parser.parse_args()
    warnings.filterwarnings("ignore", category=UserWarning)
    model, modules, seen, choosing, testing = setting(args)
    untrained = None
    if args.twin:
        twin = tlm.untrained_twin(model, seed=args.seed)
        of_twin = tlm.collect(twin, seen, max_tokens=args.max_tokens)
        untrained = (twin, tlm.discover(of_twin, args.modules, seed=args.seed))
    found = tlm.causal_cores(
        *(model, modules, choosing, testing),
        sizes=args.sizes,
        n_controls=args.controls,
        untrained=untrained,
        max_tokens=args.max_tokens,
        batch_size=32,
        seed=args.seed,
    )
    print(modules.to_frame().round(2).to_string(index=False))
    print(f"\nMeans over {len(modules)} modules, nats per token; 'whole' is the whole module\n")
    print(means(found.table).round(2).to_string())
    print("\nThe cores\n")
    print(found.table.loc[found.table["chosen"]].round(3).to_string(index=False))
    if args.out is not None:
        found.table.to_csv(args.out, index=False)
    if args.figure is not None:
        draw(tlm.plots.core_curve(found.table), args.figure)


def add_setting(
    parser: argparse.ArgumentParser, *, modules: int, choosing: int, testing: int
) -> None:
    """The options of ``setting``, with these defaults."""
    parser.add_argument("--model", default="demo")
    parser.add_argument("--modules", type=int, default=modules)
    parser.add_argument("--choosing", type=int, default=choosing, help="prompts per category")
    parser.add_argument("--testing", type=int, default=testing, help="prompts per category")
    parser.add_argument("--merge", action="store_true", help="one module per category")
    parser.add_argument("--max-tokens", type=int, default=32)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--test-seed", type=int, default=0, help="draws the prompts that test")


def setting(
    args: argparse.Namespace,
) -> tuple[tlm.HookedModel, tlm.ModuleSet, pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """The model, its modules, and the prompts that discover, choose and test."""
    model, prompts = load_model(args.model), load_prompts()
    held_out = prompts.groupby("category", sort=False).tail(HELD_OUT)
    seen = prompts.drop(held_out.index)
    acts = tlm.collect(model, seen, max_tokens=args.max_tokens)
    modules = tlm.discover(acts, args.modules, seed=args.seed)
    if args.merge:
        modules = tlm.merge_modules(acts, modules)
    choosing = held_out.groupby("category", sort=False).head(args.choosing)
    if args.choosing > HELD_OUT:
        more = seen.groupby("category", sort=False)
        added = more.sample(args.choosing - HELD_OUT, random_state=args.seed)
        choosing = pd.concat([choosing, added], ignore_index=True)
    return model, modules, seen, choosing, tested(held_out, args)


def tested(held_out: pd.DataFrame, args: argparse.Namespace) -> pd.DataFrame:
    """The prompts that test."""
    if not PUBLIC.exists():
        print("Without the public prompts beside the project, its own prompts test.")
        return held_out.groupby("category", sort=False).tail(args.testing)
    public = pd.read_json(PUBLIC, lines=True)[["prompt", "category"]]
    return public.groupby("category", sort=False).sample(args.testing, random_state=args.test_seed)


def means(table: pd.DataFrame) -> pd.DataFrame:
    """Means over the modules, and the ratio of the mean effects, by ranking and size."""
    # The untrained twin's modules have numbers of their own.
    of_twin = table["ranking"] == "untrained twin"
    whole = table["n_units"] == table.groupby(["module", of_twin])["n_units"].transform("max")
    size = table["n_units"].astype(str).mask(whole, "whole")
    grouped = table.assign(size=size).groupby(["ranking", "size"], sort=False)
    found = grouped[["effect", "others", "selectivity"]].mean()
    return found.assign(specificity=found["effect"] / found["others"])


if __name__ == "__main__":
    main()
