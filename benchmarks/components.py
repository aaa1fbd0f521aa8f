"""Modules and cores beside every head, MLP layer and residual stream of the demo model.

python -m benchmarks.components
python -m benchmarks.components --out components.csv --figure docs/images/components.png
python -m benchmarks.components --table components.csv --figure docs/images/components.png
"""

import argparse
import warnings
from pathlib import Path

import pandas as pd

import tl_modules as tlm
from benchmarks.neighbours import draw
from tl_modules.data import load_prompts
from tl_modules.data.models import load_model


def main() -> None:
    """Print the largest of each kind, and draw them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="demo")
    parser.add_argument("--modules", type=int, default=4)
    parser.add_argument("--categories", nargs="+", help="of the contrasts; by default all four")
    parser.add_argument("--fit", type=int, default=10, help="prompts a category that make modules")
    parser.add_argument("--choosing", type=int, default=3, help="prompts that choose cores")
    parser.add_argument("--testing", type=int, default=3, help="prompts of the table")
    parser.add_argument("--sizes", type=int, nargs="+", default=[100, 400])
    parser.add_argument("--by", default="path", help="or signed: what ranks units, in less time")
    parser.add_argument("--controls", type=int, default=9)
    parser.add_argument("--max-tokens", type=int, help="of a prompt")
    parser.add_argument("--category", default="french")
    parser.add_argument("--out", type=Path, help="CSV file for the whole table")
    parser.add_argument("--table", type=Path, help="an earlier run's CSV file, in place of a run")
    parser.add_argument("--figure", type=Path)
    args = parser.parse_args()
    warnings.filterwarnings("ignore", category=UserWarning)
    table = measured(args) if args.table is None else pd.read_csv(args.table)
    if args.out is not None:
        table.to_csv(args.out, index=False)
    print(largest(table, args.category).to_string(index=False))
    if args.figure is not None:
        draw(tlm.plots.plot_components(table, category=args.category, n_shown=6), args.figure)


def measured(args: argparse.Namespace) -> pd.DataFrame:
    """The table of a run."""
    model = load_model(args.model)
    prompts = load_prompts("contrasts")
    if args.categories is not None:
        prompts = prompts[prompts["category"].isin(args.categories)]
    by_category = prompts.groupby("category")
    fit = by_category.head(args.fit)
    held_out = by_category.tail(args.choosing + args.testing).groupby("category")
    choosing, testing = held_out.head(args.choosing), held_out.tail(args.testing)
    modules = tlm.discover(tlm.collect(model, fit), args.modules)
    found = tlm.causal_cores(
        *(model, modules, choosing, testing),
        sizes=args.sizes,
        by=args.by,
        rankings=(),
        n_controls=0,
        max_tokens=args.max_tokens,
    )
    return tlm.with_components(
        *(model, modules, testing),
        cores=found.cores,
        n_controls=args.controls,
        max_tokens=args.max_tokens,
    )


def largest(table: pd.DataFrame, category: str, n: int = 4) -> pd.DataFrame:
    """The parts of each kind with the largest effects on a category."""
    rows = table[table["category"] == category].sort_values("effect", ascending=False)
    rows = rows.assign(per_unit=rows["effect"] / rows["n_units"])
    columns = ["kind", "label", "rank", "n_units", "effect", "ci_low", "ci_high", "control_mean"]
    shown = rows.groupby("kind", sort=False).head(n).sort_values("kind", kind="stable")
    return shown[[*columns, "p_value", "selectivity", "per_unit"]].round(5)


if __name__ == "__main__":
    main()
