"""Modules of the contrast prompts, scaled by several factors: own words, losses and fluency.

The modules are made from the first half of the prompts, and tested on some of the other half.

    python -m benchmarks.steering
    python -m benchmarks.steering --categories french informal --figure docs/images/steering.png
    python -m benchmarks.steering --categories french --cores 100 400 --match magnitude
"""

import argparse
from pathlib import Path

import pandas as pd

import tl_modules as tlm
from benchmarks.neighbours import draw, halves
from tl_modules.data import load_prompts
from tl_modules.data.models import load_model

SHOWN = {
    "module": "module",
    "category": "category",
    "factor": "factor",
    "own_effect": "own",
    "other_effect": "others",
    "score": "own words",
    "score_clean": "without",
    "score_rise_control_mean": "controls' rise",
    "score_rise_p_value": "p",
    "score_rise_p_bh": "p after BH",
    "lost": "fluency lost",
    "lost_control_mean": "controls'",
    "repeated": "repeated",
    "steers": "steers",
}
"""The columns that are printed, and their heads."""


def main() -> None:
    """Print the table and what was written, and draw the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="demo")
    parser.add_argument("--modules", type=int, default=4)
    parser.add_argument("--categories", nargs="+", help="whose modules to scale; all by default")
    parser.add_argument("--fit", type=float, default=1.0, help="share of units that fit best")
    parser.add_argument("--cores", type=int, nargs="+", help="sizes: scales causal cores instead")
    parser.add_argument("--factors", type=float, nargs="+", default=[1.5, 2.0, 3.0])
    parser.add_argument("--per-category", type=int, default=2, help="held-out prompts of each")
    parser.add_argument("--starts", nargs="+", help="categories whose texts begin; by default all")
    parser.add_argument("--start-words", type=int, default=5, help="words of each text's start")
    parser.add_argument("--new-tokens", type=int, default=12)
    parser.add_argument("--controls", type=int, default=19)
    parser.add_argument("--match", default="layer", help="or magnitude: what controls share")
    parser.add_argument("--out", type=Path, help="a CSV file for the whole table")
    parser.add_argument("--figure", type=Path)
    args = parser.parse_args()
    model = load_model(args.model)
    fit, held_out = halves(load_prompts("contrasts"))
    found = tlm.discover(tlm.collect(model, fit), args.modules)
    if args.cores is not None:
        found = cores_of(model, found, fit, args.cores)
        print(f"units of the cores: {[len(core.units) for core in found]}", flush=True)
    modules = [
        module if args.fit == 1 else module.by_fit(args.fit)
        for module in tlm.with_topics(found, n_words=50)
        if args.categories is None or module.category in args.categories
    ]
    held_out = held_out.groupby("category").head(args.per_category)
    table = tlm.steering_effects(
        model,
        modules,
        held_out,
        factors=args.factors,
        starts=beginnings(held_out, args.starts, args.start_words),
        n_new_tokens=args.new_tokens,
        n_controls=args.controls,
        controls=args.match,
    )
    print(table[[*SHOWN]].rename(columns=SHOWN).round(3).to_string(index=False))
    for row in table.to_dict(orient="records"):
        print(f"{row['category']} at {row['factor']:g}: {row['text']!r}")
    print(table.attrs["sentence"])
    if args.out is not None:
        table.to_csv(args.out, index=False)
    if args.figure is not None:
        draw(tlm.plots.plot_steering(table, modules=modules), args.figure)


def cores_of(
    model: tlm.HookedModel, modules: tlm.ModuleSet, prompts: pd.DataFrame, sizes: list[int]
) -> tlm.ModuleSet:
    """The modules' causal cores, found on a few of the prompts that made the modules."""
    testing = prompts.groupby("category").tail(1)
    choosing = prompts.drop(testing.index).groupby("category").head(3)
    found = tlm.causal_cores(
        model, modules, choosing, testing, sizes=sizes, rankings=(), n_controls=0
    )
    return found.cores


def beginnings(prompts: pd.DataFrame, categories: list[str] | None, n_words: int) -> list[str]:
    """The first words of the first prompt of each of these categories, or of all."""
    firsts = prompts.groupby("category", sort=False).head(1)
    if categories is not None:
        firsts = firsts.loc[firsts["category"].isin(categories)]
    return [" ".join(prompt.split()[:n_words]) for prompt in firsts["prompt"]]


if __name__ == "__main__":
    main()
