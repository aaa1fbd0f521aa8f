"""How well each kind of label tells the demo model's modules from others, on held-out prompts.

Modules are discovered on a part of the project's prompts, and their causal cores are found on the
same part. Labels are chosen on one half of the other prompts and scored on the other half. The
second table leaves the categories out, so that words and tokens have to do.

    python -m benchmarks.labels [--modules 7] [--per-category 24]
"""

import argparse
import warnings
from dataclasses import replace
from typing import Any

import pandas as pd

import tl_modules as tlm
from tl_modules.data import load_prompts
from tl_modules.data.models import load_model


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="demo")
    parser.add_argument("--modules", type=int, default=7)
    parser.add_argument("--per-category", type=int, default=24, help="to discover on (24)")
    parser.add_argument("--max-tokens", type=int, default=24, help="of the cores' prompts (24)")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    warnings.filterwarnings("ignore", category=UserWarning)
    model: Any = load_model(args.model)
    prompts = load_prompts().sample(frac=1, random_state=args.seed)
    seen = prompts.groupby("category").head(args.per_category)
    acts = tlm.collect(model, seen, progress=False)
    modules = tlm.discover(acts, args.modules, seed=args.seed, progress=False)
    modules = tlm.with_topics(modules, model, progress=False)
    cores = tlm.with_topics(cores_of(model, modules, seen, args), model, progress=False)
    held_out = tlm.collect(model, prompts.drop(seen.index), progress=False)
    print(f"{len(seen)} prompts discover, {len(held_out.samples)} choose and score")
    without = replace(held_out, samples=held_out.samples.drop(columns="category"))
    for title, others in (("With categories", held_out), ("Without categories", without)):
        labelled = tlm.with_labels(modules, others, cores=cores, seed=args.seed)
        _print(title, scores(labelled))
        _print(f"{title}: by kind", by_kind(labelled))
        for module in labelled:
            print(f"{module.label}  {module.title}")


def cores_of(
    model: Any, modules: tlm.ModuleSet, prompts: pd.DataFrame, args: argparse.Namespace
) -> tlm.ModuleSet:
    """The modules' cores, found on a few of the prompts that the modules were discovered on."""
    halves = [prompts.groupby("category").head(3), prompts.groupby("category").tail(3)]
    found = tlm.causal_cores(
        *(model, modules, *halves),
        sizes=(0.0025, 0.01),
        rankings=(),
        n_controls=0,
        max_tokens=args.max_tokens,
        seed=args.seed,
        progress=False,
    )
    return found.cores


def scores(modules: tlm.ModuleSet) -> pd.DataFrame:
    """One row per module: its category, and the AUROC and p-value of each kind of label."""
    table = modules.label_scores()
    wide = table.pivot(index="module", columns="kind", values=["auc", "p_value"])
    wide.columns = [f"{kind} {name}" for name, kind in wide.columns]
    chosen = table.loc[table["chosen"]].set_index("module")
    return wide.assign(chosen=chosen["kind"], p_holm=chosen["p_holm"], fits=chosen["fits"])


def by_kind(modules: tlm.ModuleSet) -> pd.DataFrame:
    """One row per kind: mean AUROC, that of other modules' labels, and how often it is chosen."""
    grouped = modules.label_scores().groupby("kind")
    return grouped.agg(
        n=("auc", "size"),
        auc=("auc", "mean"),
        lowest=("auc", "min"),
        highest=("auc", "max"),
        auc_others=("auc_others", "mean"),
        chosen=("chosen", "sum"),
        below_5_percent=("p_value", lambda p_values: int((p_values <= 0.05).sum())),
    )


def _print(title: str, table: pd.DataFrame) -> None:
    print(f"\n{title}\n\n{table.round(3).to_string()}", flush=True)


if __name__ == "__main__":
    main()
