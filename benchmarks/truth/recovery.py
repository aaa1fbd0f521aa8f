"""Recovery: the adjusted Rand index of the units' labels against their owners, by scene."""

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Int
from sklearn.metrics import adjusted_rand_score

import tl_modules as tlm
from benchmarks.truth.files import Truth
from benchmarks.truth.options import (
    BASELINES,
    METHODS,
    READINGS,
    chosen_n_modules,
    unit_labels,
)

SUPERVISED = "supervised: category of the highest mean z"
ABLATED = "supervised: category that the unit's ablation harms most"
LEAST_UNITS = 4
"""A module keeps at least this many units."""


@dataclass(frozen=True)
class Scene:
    """How many of each task's units and prompts there are, as shares of the first task's."""

    name: str
    units: tuple[float, ...] = (1, 1)
    """Shares, spread evenly over the tasks."""

    fewer_prompts: int = 1
    """The first task has this many times the prompts of each other task."""

    only_first: bool = False
    """The first task alone keeps all units; the others keep the last share."""

    def unit_shares(self, n_tasks: int) -> np.ndarray:
        """Of each task."""
        if self.only_first:
            return np.array([1, *[self.units[-1]] * (n_tasks - 1)])
        given = np.linspace(0, 1, len(self.units))
        return np.interp(np.linspace(0, 1, n_tasks), given, self.units)

    def counts(self, n_tasks: int, per_task: int) -> tuple[int, ...]:
        """Prompts of each task."""
        return (per_task, *[per_task // self.fewer_prompts] * (n_tasks - 1))


SCENES = (
    Scene("balanced"),
    Scene("units 1 to .1", units=(1, 0.75, 0.5, 0.25, 0.1)),
    Scene("one large", units=(1, 0.1), only_first=True),
    Scene("prompts 4:1", fewer_prompts=4),
    Scene("prompts 10:1", fewer_prompts=10),
)


@dataclass(frozen=True)
class Size:
    """How much recovery measures."""

    seeds: tuple[int, ...] = (0, 1, 2)
    readings: tuple[str, ...] = READINGS
    methods: tuple[str, ...] = (*METHODS, *BASELINES)
    per_task: int = 40
    candidates: range = range(2, 9)
    chosen: tuple[str, ...] = tuple(scene.name for scene in SCENES)
    """The scenes in which K is chosen too."""

    ablates: bool = True
    """Ablate every unit alone, for the supervised rival."""


def recovery(truth: Truth, size: Size) -> pd.DataFrame:
    """One row per seed, scene, reading, method and K: ``ari``, and whether a chosen K is right."""
    rows = []
    for seed in size.seeds:
        effects = unit_effects(truth, seed) if size.ablates else None
        for reading in size.readings:
            collected: dict[tuple[int, ...], tlm.ActivationMatrix] = {}
            for scene in SCENES:
                counts = scene.counts(truth.n_tasks, size.per_task)
                if counts not in collected:
                    collected[counts] = collect(truth, counts, seed, reading)
                kept = kept_units(truth, scene, seed)
                acts = part(collected[counts], kept)
                found = labels(acts, truth, scene, seed, reading, size)
                if effects is not None and reading == READINGS[0]:
                    found = [*found, ((ABLATED, "true"), effects[:, kept].argmax(axis=0))]
                for (method, k), labelled in found:
                    ari = adjusted_rand_score(truth.owners[kept], labelled)
                    row = {"scene": scene.name, "seed": seed, "reading": reading}
                    right = labelled.max() + 1 == truth.n_tasks if k == "chosen" else None
                    rows.append(row | {"method": method, "k": k, "ari": ari, "right": right})
    return pd.DataFrame(rows)


def collect(truth: Truth, counts: tuple[int, ...], seed: int, reading: str) -> tlm.ActivationMatrix:
    """The activations of so many prompts of each task."""
    weight: Any = reading
    return tlm.collect(
        truth.model, truth.draw(counts, seed), weight=weight, batch_size=64, progress=False
    )


def kept_units(truth: Truth, scene: Scene, seed: int) -> Int[np.ndarray, " kept"]:
    """The scene's units, drawn at random from each task's; shared units belong to no task."""
    generator = np.random.default_rng([5, seed])
    kept = []
    for task, share in enumerate(scene.unit_shares(truth.n_tasks)):
        own = generator.permutation(np.flatnonzero(truth.owners == task))
        kept.append(own[: max(LEAST_UNITS, int(share * len(own)))])
    return np.sort(np.concatenate(kept))


def labels(
    acts: tlm.ActivationMatrix, truth: Truth, scene: Scene, seed: int, reading: str, size: Size
) -> Iterator[tuple[tuple[str, str], Int[np.ndarray, " units"]]]:
    """Each method, at the true K or the chosen one, and its labels."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a module without units is a result here
        for method in size.methods:
            yield (method, "true"), unit_labels(acts, method, truth.n_tasks, seed)
        if reading == READINGS[0] and scene.name in size.chosen:
            k = chosen_n_modules(acts, size.candidates, seed)  # the same for every method
            for method in (name for name in size.methods if name in METHODS):
                yield (method, "chosen"), unit_labels(acts, method, k, seed)
        z = np.asarray(acts.zscore().values)
        category = acts.samples["category"].to_numpy()
        means = [z[category == name].mean(axis=0) for name in truth.categories]
        yield (SUPERVISED, "true"), np.argmax(means, axis=0)


def unit_effects(truth: Truth, seed: int) -> np.ndarray:
    """The rise of each task's loss when one unit alone is mean-ablated, ``[tasks units]``."""
    prompts = truth.prompts(8, 1000 + seed)
    acts = tlm.collect(truth.model, truth.prompts(20, seed), batch_size=64, progress=False)
    found = tlm.shared_units(
        truth.model, prompts, acts, n_units=len(acts.units), batch_size=400, progress=False
    )
    effects = found.table[[f"effect[{name}]" for name in truth.categories]].to_numpy().T
    ordered = np.empty_like(effects)
    ordered[:, found.units.flat()] = effects
    return ordered


def part(acts: tlm.ActivationMatrix, kept: Int[np.ndarray, " kept"]) -> tlm.ActivationMatrix:
    """Some of the units, of both layers, as a matrix of its own."""
    return tlm.ActivationMatrix.from_arrays(
        np.asarray(acts.values)[:, kept], samples=acts.samples, reading=acts.reading
    )
