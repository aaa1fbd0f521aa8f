"""False positives and power: which sets of units are called selective at p <= 0.05."""

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Bool, Int

import tl_modules as tlm
from benchmarks.truth.checks import true_module
from benchmarks.truth.files import Truth

N_CONTROLS = 19
"""Controls of each module: p is at most 0.05 if none of them is as selective as the module."""

RANDOM_K = (2, 3, 5, 10, 20)
PARTS = {"whole": 1.0, "half": 0.5, "quarter": 0.25, "tenth": 0.1}
PER_TASK = 6

Masks = Iterable[tuple[int, Bool[np.ndarray, " units"]]]
"""Tasks, and sets of units whose selectivity for the task is tested."""


def false_positives(
    truth: Truth, kinds: Iterable[str], n_random: int, seed: int = 0
) -> pd.DataFrame:
    """The share of random sets of 1/K of the units that are called selective, by K and control."""
    generator = np.random.default_rng([11, seed])
    rows = []
    for k in RANDOM_K:
        masks = [
            (at % truth.n_tasks, generator.random(len(truth.owners)) < 1 / k)
            for at in range(n_random)
        ]
        for kind in kinds:
            found = called(truth, masks, kind, seed)
            rows.append({"k": k, "controls": kind, "selective": found.sum(), "n": len(found)})
    return pd.DataFrame(rows)


def power(truth: Truth, kinds: Iterable[str], n_draws: int, seed: int = 0) -> pd.DataFrame:
    """The share of true blocks, and of random parts of them, that are called selective."""
    generator = np.random.default_rng([13, seed])
    rows = []
    for part, share in PARTS.items():
        masks = []
        for draw in range(1 if part == "whole" else n_draws):
            del draw
            for task in range(truth.n_tasks):
                own = np.flatnonzero(truth.owners == task)
                kept = generator.permutation(own)[: max(1, round(share * len(own)))]
                masks.append((task, np.isin(np.arange(len(truth.owners)), kept)))
        for kind in kinds:
            found = called(truth, masks, kind, seed)
            rows.append(
                {"units": part, "controls": kind, "selective": found.sum(), "n": len(found)}
            )
    return pd.DataFrame(rows)


def called(truth: Truth, masks: Masks, kind: str, seed: int) -> Bool[np.ndarray, " masks"]:
    """Which of the sets are called selective for their tasks."""
    acts = tlm.collect(truth.model, truth.prompts(20, seed), batch_size=64, progress=False)
    modules = [true_module(truth, acts, task, mask) for task, mask in masks]
    # It holds each unit's mean |activation|, which controls of the kind "magnitude" match.
    reference = tlm.discover(acts, truth.n_tasks, seed=seed, progress=False)
    controls: Any = kind
    p_values = []
    # A call's labels must differ, so a call takes one set of each task.
    for first in range(0, len(modules), truth.n_tasks):
        table = tlm.module_effects(
            truth.model,
            modules[first : first + truth.n_tasks],
            truth.prompts(PER_TASK, 500 + seed + first),
            controls=controls,
            reference=reference,
            n_controls=N_CONTROLS,
            seed=seed + first,
            batch_size=(1 + N_CONTROLS) * PER_TASK * truth.n_tasks,
            progress=False,
        )
        p_values.extend(table.drop_duplicates("module")["selectivity_p_value"])
    return np.array(p_values) <= 0.05 + 1e-9


USED = 0.02
"""What ablating a shared unit alone costs every task at least, in nats per token, if the model uses
it. Training makes some units free to serve all tasks, and then does not use them."""


def shared_precision(truth: Truth, seeds: Iterable[int]) -> pd.DataFrame:
    """Precision of ``shared_units`` at the number of shared units, and of those that are used."""
    is_shared = truth.owners < 0
    rows = []
    for seed in seeds if is_shared.any() else ():
        acts = tlm.collect(truth.model, truth.prompts(40, seed), batch_size=64, progress=False)
        is_used = used(truth, acts, np.flatnonzero(is_shared), seed)
        n_used = int(is_used.sum())
        found = tlm.shared_units(
            truth.model,
            truth.prompts(20, 100 + seed),
            acts,
            n_units=int(is_shared.sum()),
            batch_size=200,
            progress=False,
        )
        first = found.units.flat()
        rows.append(
            {
                "seed": seed,
                "shared": len(first),
                "precision": is_shared[first].mean(),
                "used": n_used,
                "precision of used": is_used[first[:n_used]].mean() if n_used else np.nan,
                "chance": is_shared.mean(),
            }
        )
    return pd.DataFrame(rows)


def used(
    truth: Truth, acts: tlm.ActivationMatrix, shared: Int[np.ndarray, " shared"], seed: int
) -> Bool[np.ndarray, " units"]:
    """Which of the shared units cost every task something when each is ablated alone."""
    every = np.arange(len(truth.owners))
    alone = [
        replace(true_module(truth, acts, 0, every == unit), label=int(unit)) for unit in shared
    ]
    table = tlm.module_effects(
        truth.model,
        alone,
        truth.prompts(20, 300 + seed),
        n_controls=0,
        batch_size=200,
        progress=False,
    )
    least = table.groupby("module")["effect"].min()
    return np.isin(every, least.index[least >= USED])
