"""Cores beside the strongest rival at equal specificity, and where the rival's units lie.

    python -m benchmarks.equal_specificity [--modules 10] [--choosing 24] [--testing 20]
                                           [--max-tokens 18] [--dtype bfloat16]

One module per category. The rival takes units of the whole model by the same parts as the core:
the part on the own category minus a weight times the mean part on the others. The larger the
weight, the more specific the rival. Prompts as in ``benchmarks.cores``.
"""

import argparse
import warnings
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch

import tl_modules as tlm
from benchmarks.cores import add_setting, setting
from tl_modules.causal.ablation_path import ablation_path
from tl_modules.causal.metrics import make_task
from tl_modules.interventions.unit_target import UnitTarget
from tl_modules.tables.prompt_frames import categories_of, is_category

WEIGHTS = {"core": (1.0,), "all units": (1.0, 2.0, 3.0)}
N_STEPS = 3


@dataclass(frozen=True, eq=False)
class First(UnitTarget):
    """The first units of a ranking."""

    label: str
    category: str | None
    units: tlm.Units
    reference: tlm.ModuleSet


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_setting(parser, modules=10, choosing=24, testing=20)
    parser.add_argument("--sizes", type=int, nargs="+", default=[100, 460, 1600])
    parser.add_argument("--dtype", default="float32", help="of the model in the tests")
    parser.set_defaults(merge=True, max_tokens=18)
    args = parser.parse_args()
    warnings.filterwarnings("ignore", category=UserWarning)
    model, modules, _, choosing, testing = setting(args)
    sets = taken(_parts(model, modules, choosing, args), modules, args.sizes)
    inside = sets.loc[(sets["ranking"] == "all units") & (sets["weight"] == 1)]
    print("Share of the rival's first units that lie in the category's own module\n")
    print(inside.pivot(index="category", columns="size", values="inside").round(2).to_string())
    model.to(getattr(torch, args.dtype))
    targets = [
        First(str(label), category, units, modules)
        for label, category, units in sets[["category", "units"]].itertuples()
    ]
    options = {"n_controls": 0, "max_tokens": args.max_tokens, "batch_size": 32}
    effects = tlm.module_effects(model, targets, testing, seed=args.seed, **options)
    by_set = effects.groupby(["module", "own"], sort=False)["effect"].mean().unstack("own")
    labels = sets.index.astype(str)
    sets["own"], sets["others"] = (by_set.loc[labels, own].to_numpy() for own in (True, False))
    found = sets.groupby(["ranking", "weight", "size"], sort=False)[["own", "others"]].mean()
    found["selectivity"] = found["own"] - found["others"]
    found["specificity"] = found["own"] / found["others"]
    print("\nMeans over the modules, nats per token; specificity is the ratio of the means\n")
    print(found.round(2).to_string())


def _parts(
    model: tlm.HookedModel, modules: tlm.ModuleSet, prompts: pd.DataFrame, args: argparse.Namespace
) -> pd.DataFrame:
    """Each category's mean part of each unit in its own module's ablation: categories x units."""
    task = make_task(model, prompts, "loss", 32, args.max_tokens, "content")
    parts = np.zeros((len(prompts), len(modules.units)), dtype=np.float32)
    for module in modules:
        parts[:, module.units.flat()] = ablation_path(
            *(model, task, module.units, modules, lambda n_prompts: None),
            n_steps=N_STEPS,
            of_content=True,
        )
    categories = categories_of(prompts)
    names = list(dict.fromkeys(categories.tolist()))
    means = [parts[is_category(categories, name)].mean(axis=0) for name in names]
    return pd.DataFrame(np.stack(means), index=names)


def taken(parts: pd.DataFrame, modules: tlm.ModuleSet, sizes: list[int]) -> pd.DataFrame:
    """The first units of each ranking: one row per module, ranking, weight and size."""
    site, rows = modules.units.every(), []
    for module in modules:
        own = parts.loc[str(module.category)].to_numpy()
        others = parts.drop(index=str(module.category)).mean().to_numpy()
        is_inside = np.isin(np.arange(len(own)), module.units.flat())
        for ranking, weights in WEIGHTS.items():
            for weight in weights:
                scores = own - weight * others
                if ranking == "core":
                    scores = np.where(is_inside, scores, -np.inf)
                order = np.argsort(-scores, kind="stable")
                for size in sizes:
                    first = order[: min(size, module.n_units) if ranking == "core" else size]
                    row = {"category": module.category, "ranking": ranking, "weight": weight}
                    row |= {"size": size, "inside": is_inside[first].mean()}
                    rows.append(row | {"units": site.select(np.sort(first))})
    return pd.DataFrame(rows)


if __name__ == "__main__":
    main()
