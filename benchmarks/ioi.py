"""Indirect objects: CPR and CMD of rankings of neurons and heads, as the benchmark MIB has them.

    python -m benchmarks.ioi [--pairs 16] [--units mlp]

Prompts such as "Then, Mary and John went to the store. John gave a drink to", made of MIB's
templates and names (arXiv 2504.13151) beside the project (../shared/data/ioi). The corrupted prompt
names the other person as the giver; the metric is the difference of the two names' logits. Units
are ranked on some pairs, and everything is measured on others. "|...|" ranks by magnitude, as MIB
does for CMD. MIB's random circuits score about 0.25 (CPR) and 0.75 (CMD).
"""

import argparse
import json
import warnings

import numpy as np

import tl_modules as tlm
from benchmarks.neighbours import draw
from benchmarks.sufficiency import (
    SHARED,
    Pair,
    Task,
    ability_prompts,
    add_options,
    areas,
    does,
    estimates,
    faithful,
    halves,
    modules_of,
    token_of,
    usable,
)
from tl_modules.data import load_prompts
from tl_modules.data.models import load_model

FOLDER = SHARED / "ioi"


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_options(parser, pairs=16, n_random=3)
    parser.add_argument("--units", default="mlp+attn_heads")
    args = parser.parse_args()
    if not FOLDER.exists():
        print(f"Skipped: {FOLDER} is not beside the project.")
        return
    warnings.filterwarnings("ignore", category=UserWarning)
    model = load_model(args.model)
    made = pairs(model, 4 * args.pairs, args.seed)
    ranking_pairs, test_pairs = halves(made, args.pairs, args.seed)
    ranked_on, tested_on = Task.of(model, ranking_pairs), Task.of(model, test_pairs)
    print(f"To rank by: {does(model, ranked_on)}.\nTo test: {does(model, tested_on)}.")
    some = ability_prompts(load_prompts(), args.per_category)
    modules = modules_of(model, some, ranking_pairs, args.units, args.seed)
    rankings = estimates(model, ranked_on, modules, args.steps)
    by_size = [name for name in rankings if name != "by module"]
    rankings |= {f"|{name}|": np.abs(rankings[name]) for name in by_size}
    options = {"units": args.units, "n_random": args.random, "seed": args.seed, "progress": False}
    tested = tested_on.curves(model, rankings, **options)
    print(f"\nFaithfulness on the test pairs, by number of units of {args.units}\n")
    print(faithful(tested).to_string())
    print("\nAreas on the test pairs\n")
    print(areas(tested).to_string(index=False))
    if args.figure is not None:
        draw(tlm.plots.faithfulness_curve(tested.table), args.figure)


def pairs(model: tlm.HookedModel, n_pairs: int, seed: int) -> list[Pair]:
    """Pairs from the templates; the indirect object is the first or the second name."""
    names, objects, places, templates = (
        json.loads((FOLDER / f"{name}.json").read_text())
        for name in ("names", "objects", "places", "templates")
    )
    names = [name for name in names if token_of(model, f" {name}") is not None]
    templates = [template for template in templates if "an {object}" not in template]
    generator = np.random.default_rng(seed)
    made: list[Pair] = []
    while len(made) < n_pairs:
        first, second = generator.choice(names, 2, replace=False).tolist()
        template, thing, place = (
            str(generator.choice(choices)) for choices in (templates, objects, places)
        )
        given = {"name_A": first, "name_B": second, "object": thing, "place": place}
        giver, other = (first, second) if generator.integers(2) else (second, first)
        clean, corrupted = (template.format(name_C=name, **given) for name in (giver, other))
        pair = Pair(clean, corrupted, f" {other}", f" {giver}")
        if usable(model, pair):
            made.append(pair)
    return made


if __name__ == "__main__":
    main()
