"""How many neurons are enough for subject-verb agreement?

    python -m benchmarks.agreement [--kind nounpp] [--pairs 24] [--cores]

Pairs of prompts such as "The girls" and "The girl", of Marks et al. 2025 (arXiv 2403.19647), beside
the project (../shared/data/agreement). The metric is the logit of the verb that agrees minus that
of the other one. Neurons are ranked and sizes chosen on some pairs, and faithfulness is measured on
others, with attention intact and all other neurons patched from the corrupted run. The nearest
published figure is about 100 neurons (arXiv 2601.22594, on another model).

"by module" takes the module with the highest attribution first. With ``--cores``, "cores" takes the
causal cores first, which know the categories of prompts and nothing of the verbs.
"""

import argparse
import json
import warnings
from pathlib import Path

import numpy as np
import pandas as pd

import tl_modules as tlm
from benchmarks.neighbours import draw
from benchmarks.sufficiency import (
    ABILITIES,
    SHARED,
    Pair,
    Task,
    ability_prompts,
    add_options,
    does,
    estimates,
    faithful,
    halves,
    interval,
    modules_of,
    usable,
)
from tl_modules.data import load_prompts
from tl_modules.data.models import load_model

FOLDER = SHARED / "agreement"
SIZES = (10, 20, 30, 50, 100, 200, 500, 2000, 10000, 1.0)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_options(parser, pairs=24, n_random=2)
    parser.add_argument("--kind", choices=["simple", "nounpp"], default="simple")
    parser.add_argument("--cores", action="store_true", help="causal cores too")
    args = parser.parse_args()
    path = FOLDER / f"{args.kind}.jsonl"
    if not path.exists():
        print(f"Skipped: {path} is not beside the project.")
        return
    warnings.filterwarnings("ignore", category=UserWarning)
    model = load_model(args.model)
    ranking_pairs, test_pairs = halves(read(model, path), args.pairs, args.seed)
    ranked_on, tested_on = Task.of(model, ranking_pairs), Task.of(model, test_pairs)
    print(f"To rank by: {does(model, ranked_on)}.\nTo test: {does(model, tested_on)}.")
    rankings = rankings_of(model, ranked_on, args)
    n_units = len(rankings["gradient"])
    sizes = [size for size in SIZES if size <= n_units]
    options = {"sizes": sizes, "n_random": args.random, "seed": args.seed, "progress": False}
    chosen = ranked_on.curves(model, rankings, **options)
    tested = tested_on.curves(model, rankings, **options)
    print(f"\nFaithfulness on the test pairs, by number of neurons of {n_units:,}\n")
    print(faithful(tested).to_string())
    for level in (0.8, 0.9):
        found = chosen.smallest(level, testing=tested)
        shown = found[["ranking", "n_units"]].assign(on_test_pairs=interval(found, "faithfulness"))
        print(f"\nNeurons that reach {level} on the pairs to rank by\n")
        print(shown.to_string(index=False))
    if args.figure is not None:
        draw(tlm.plots.faithfulness_curve(tested.table), args.figure)


def read(model: tlm.HookedModel, path: Path) -> list[Pair]:
    """The pairs that the tokenizer fits."""
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    names = ("clean_prefix", "patch_prefix", "clean_answer", "patch_answer")
    pairs = [Pair(*(row[name] for name in names)) for row in rows]
    return [pair for pair in dict.fromkeys(pairs) if usable(model, pair)]


def rankings_of(
    model: tlm.HookedModel, task: Task, args: argparse.Namespace
) -> dict[str, np.ndarray]:
    """All rankings of the neurons."""
    prompts = load_prompts()
    some = ability_prompts(prompts, args.per_category)
    half = len(task.pairs) // 2
    modules = modules_of(model, some, task.pairs[:half], "mlp", args.seed)
    print(modules.to_frame()[["module", "n_units", "n_samples", "category"]].to_string(index=False))
    found = estimates(model, task, modules, args.steps)
    if args.cores:
        found["cores"] = of_cores(model, task, modules, prompts.drop(some.index), args)
    return found


def of_cores(
    model: tlm.HookedModel,
    task: Task,
    modules: tlm.ModuleSet,
    others: pd.DataFrame,
    args: argparse.Namespace,
) -> np.ndarray:
    """The causal cores of the modules, module by module."""
    others = others[others["category"].isin(ABILITIES)].groupby("category")
    # With its verb: a core is chosen by the loss on the tokens of a prompt.
    clean = list(dict.fromkeys(pair.clean + pair.right for pair in task.pairs))
    frames = []
    for start, own in ((0, clean[::2]), (3, clean[1::2])):
        few = others.nth(range(start, start + 3))[["prompt", "category"]]
        added = pd.DataFrame({"prompt": own[:6], "category": "the task"})
        frames.append(pd.concat([few, added], ignore_index=True))
    found = tlm.causal_cores(
        model,
        modules,
        *frames,
        sizes=[100, 400, 1600],
        rankings=[],
        n_controls=0,
        max_tokens=24,
        batch_size=32,
        seed=args.seed,
        progress=False,
    )
    print(found.table.loc[found.table["chosen"]].round(2).to_string(index=False))
    given = (model, task.clean, task.corrupted, task.metric, found.cores)
    scores = tlm.attribute_modules(
        *given, n_steps=args.steps, attention_mask=task.mask, progress=False
    )
    return scores.by_module()


if __name__ == "__main__":
    main()
