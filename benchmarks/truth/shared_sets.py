"""Shared units: what setting them aside does for the others, and which sets are called shared."""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Bool
from sklearn.metrics import adjusted_rand_score

import tl_modules as tlm
from benchmarks.truth.checks import true_module
from benchmarks.truth.files import Truth
from benchmarks.truth.options import METHODS

Sets = Iterator[tuple[str, int, Bool[np.ndarray, " units"]]]
"""Kinds of set, tasks, and sets of units."""


def set_aside(truth: Truth, seeds: Iterable[int]) -> pd.DataFrame:
    """Recovery of the owned units: nothing set aside, what is found, or the true shared units."""
    owned = truth.owners >= 0
    rows = []
    for seed in seeds if not owned.all() else ():
        acts = tlm.collect(truth.model, truth.prompts(40, seed), batch_size=64, progress=False)
        found = tlm.shared_units(
            truth.model,
            truth.prompts(20, 100 + seed),
            acts,
            n_units=int((~owned).sum()),
            batch_size=200,
            progress=False,
        )
        cases = {"none": None, "found": found.units, "true": acts.units.select(~owned)}
        for method in METHODS:
            named: Any = method
            for aside, shared in cases.items():
                modules = tlm.discover(
                    *(acts, truth.n_tasks), method=named, shared=shared, seed=seed, progress=False
                )
                kept = owned & (modules.unit_labels >= 0)
                ari = adjusted_rand_score(truth.owners[kept], modules.unit_labels[kept])
                rows.append({"seed": seed, "method": method, "set aside": aside, "ari": ari})
    return pd.DataFrame(rows)


def called_shared(truth: Truth, seeds: Iterable[int], per_task: int = 6) -> pd.DataFrame:
    """Which sets of units ``module_effects`` calls shared by all, beside 19 controls."""
    rows = []
    for seed in seeds:
        acts = tlm.collect(truth.model, truth.prompts(20, seed), batch_size=64, progress=False)
        sets = list(_sets(truth, acts, seed))
        targets = [
            replace(true_module(truth, acts, task, mask), label=number)
            for number, (_, task, mask) in enumerate(sets)
        ]
        table = tlm.module_effects(
            truth.model,
            targets,
            truth.prompts(per_task, 900 + seed),
            n_controls=19,
            batch_size=20 * per_task * truth.n_tasks,
            seed=seed,
            progress=False,
        ).drop_duplicates("module")
        flags = table["shared_by_all"].tolist()
        rows += [
            {"set": kind, "seed": seed, "called": called}
            for (kind, _, _), called in zip(sets, flags, strict=True)
        ]
    return pd.DataFrame(rows)


def _sets(truth: Truth, acts: tlm.ActivationMatrix, seed: int) -> Sets:
    """True blocks and their halves, random sets, shared units and parts of them, and modules."""
    generator = np.random.default_rng([5, seed])
    shared = truth.owners < 0
    some = generator.random(len(shared))
    for task in range(truth.n_tasks):
        block = truth.owners == task
        yield "block", task, block
        yield "half a block", task, block & (generator.random(len(block)) < 0.5)
        yield "random fifth", task, generator.random(len(block)) < 0.2
        yield "random half", task, generator.random(len(block)) < 0.5
        if shared.any():
            yield "block and shared", task, block | shared
    if shared.any():
        yield "shared", 0, shared
        yield "more than half of the shared", 0, shared & (some <= np.quantile(some[shared], 0.6))
    modules = tlm.discover(acts, truth.n_tasks, seed=seed, progress=False)
    for module in modules:
        task = truth.categories.index(str(module.category))
        yield "found", task, modules.unit_labels == module.label
