"""P-values of ablations of random targets in the planted model."""

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

import tl_modules as tlm
from benchmarks.calibration.levels import PValues, Simulation, generator_of
from benchmarks.calibration.planted import PlantedModel, random_labels
from tl_modules.causal.parts import Parts

N_CONTROLS = 19


class _World:
    """The planted model, its activations and held-out prompts of three tokens."""

    def __init__(self, seed: int, n_layers: int = 1, n_neurons: int = 60) -> None:
        self.model = PlantedModel(n_layers=n_layers, n_neurons=n_neurons)
        self.acts = tlm.collect(self.model, self.model.prompts(6), progress=False)
        self.prompts = self.model.prompts(2, seed=1, n_symbols=2)
        self.means = self.acts.normalise("zscore")  # holds mean |activation| too
        self.generator = generator_of(seed)

    def module(self, label: int, is_member: np.ndarray) -> tlm.Module:
        """A module of these units; its own category goes round."""
        name = f"task{label % self.model.N_CATEGORIES}"
        samples = self.acts.samples[self.acts.samples["category"] == name]
        return tlm.Module(label, self.acts.units.select(is_member), samples, means=self.means)

    def random_modules(self, n: int, n_modules: int = 3) -> list[tlm.Module]:
        """Modules of 1 / n_modules of the units, each drawn on its own."""
        n_units = len(self.acts.units)
        draws = [random_labels(n_units, n_modules, self.generator) == 0 for _ in range(n)]
        return [self.module(label, draw) for label, draw in enumerate(draws)]

    def effects(self, targets: list[Any], seed: int, **options: Any) -> pd.DataFrame:
        """The effects table of random targets."""
        given = {"prompts": self.prompts, "method": "zero", "n_controls": N_CONTROLS} | options
        rows = (1 + N_CONTROLS) * len(given["prompts"])
        return tlm.module_effects(
            self.model, targets, seed=seed, batch_size=rows, progress=False, **given
        )


def _columns(table: pd.DataFrame, name: str) -> dict[str, PValues]:
    """An effects table's two kinds of p-values, one row per target."""
    cells = table.pivot(index="module", columns="category", values="p_value")
    selectivity = table.drop_duplicates("module")["selectivity_p_value"]
    return {
        f"module_effects, cells, {name}": cells.to_numpy(),
        f"module_effects, selectivity, {name}": selectivity.to_numpy()[:, None],
    }


def _fixed(n: int, seed: int, name: str, **options: Any) -> dict[str, PValues]:
    world = _World(seed, n_layers=2 if name == "layer" else 1)
    table = world.effects(world.random_modules(n), seed, **options)
    return _columns(table, name)


def layer(n: int, seed: int) -> dict[str, PValues]:
    """Controls of the same layers, a fixed number."""
    return _fixed(n, seed, "layer")


def magnitude(n: int, seed: int) -> dict[str, PValues]:
    """Controls of similar mean |activation|."""
    return _fixed(n, seed, "magnitude", controls="magnitude")


def attribution(n: int, seed: int) -> dict[str, PValues]:
    """Controls of similar estimated effect."""
    return _fixed(n, seed, "attribution", controls="attribution")


def keep_only(n: int, seed: int) -> dict[str, PValues]:
    """Everything but the module is ablated."""
    return _fixed(n, seed, "keep_only", keep_only=True)


def patch(n: int, seed: int) -> dict[str, PValues]:
    """Values from a paired prompt of another category and other symbols."""
    world = _World(seed)
    corrupted = world.prompts["prompt"].to_numpy()[np.roll(np.arange(len(world.prompts)), 2)]
    prompts = world.prompts.assign(corrupted=corrupted)
    table = world.effects(world.random_modules(n), seed, prompts=prompts, method="patch")
    return _columns(table, "patch")


def answer(n: int, seed: int) -> dict[str, PValues]:
    """Losses of the answers alone: the last symbol of three, after a prompt of the others."""
    world = _World(seed)
    prompts = world.model.prompts(2, seed=1, n_symbols=3)
    apart = prompts["prompt"].str.rsplit(n=1, expand=True)
    prompts = prompts.assign(prompt=apart[0], answer=apart[1], separator=" ")
    modules = world.random_modules(n)
    table = world.effects(modules, seed, prompts=prompts, loss_on="answer")
    return _columns(table, "answer")


def sequential(n: int, seed: int) -> dict[str, PValues]:
    """As many controls as each test needs."""
    world = _World(seed)
    tables = [world.effects([each], seed, n_controls=None) for each in world.random_modules(n)]
    return _columns(pd.concat(tables), "sequential")


def uncertain_labels(n: int, seed: int) -> dict[str, PValues]:
    """Categories by three annotators, each of whom errs on every fourth prompt."""
    world = _World(seed)
    prompts = world.model.prompts(4, seed=1, n_symbols=2)
    truth = prompts["category"].tolist()
    following = dict(zip(["task0", "task1", "task2"], ["task1", "task2", "task0"], strict=True))
    answers = [
        [following[own] if row % 4 == by else own for row, own in enumerate(truth)]
        for by in range(3)
    ]
    labels = tlm.annotate(prompts["prompt"], answers, progress=False)
    table = world.effects(world.random_modules(n), seed, prompts=prompts, labels=labels)
    return _columns(table, "uncertain labels")


def dissociation(n: int, seed: int) -> dict[str, PValues]:
    """Two modules of one random partition into two."""
    world = _World(seed)
    sets = [world.prompts[world.prompts["category"] == f"task{at}"] for at in (0, 1)]
    found = []
    for number in range(n):
        labels = random_labels(len(world.acts.units), 2, world.generator)
        pair = [world.module(label, labels == label) for label in (0, 1)]
        result = tlm.dissociation(
            world.model,
            *pair,
            *sets,
            method="zero",
            n_controls=N_CONTROLS,
            seed=number,
            batch_size=1000,
            progress=False,
        )
        found.append([*result.effects["p_value"], *result.contrasts["p_value"]])
    p_values = np.array(found)
    return {
        "dissociation, effects": p_values[:, :4],
        "dissociation, P and Q": p_values[:, 4:6],
        "dissociation, interaction": p_values[:, 6:],
    }


def concepts(n: int, seed: int) -> dict[str, PValues]:
    """How well probes find a category of random labels, on prompts of each task."""
    world, found = _World(seed), []
    for number, module in enumerate(world.random_modules(n)):
        sets = {}
        for name, task, size in [("fit", None, 24), *(("task", at, 80) for at in range(3))]:
            tasks = range(3) if task is None else [task]
            texts = [
                text
                for at in tasks
                for text in world.model.noise(size // len(tasks), at, world.generator)
            ]
            # Labels at random: a probe that is always right has no p-value.
            labels = world.generator.permutation(["with", "without"] * (size // 2))
            sets[f"{name} {task}"] = pd.DataFrame({"prompt": texts, "category": labels})
        table = tlm.concept_effects(
            world.model,
            module,
            "with",
            sets.pop("fit None"),
            sets,
            method="zero",
            n_controls=N_CONTROLS,
            batch_size=5000,
            seed=number,
            progress=False,
        )
        found.append(table[["auc_p_value", "lost_p_value", "harm_p_value"]])
    p_values = np.array(found)
    return {
        f"concept_effects, {name}": p_values[..., at]
        for at, name in enumerate(("auc", "lost", "harm"))
    }


def parts(n: int, seed: int) -> dict[str, PValues]:
    """Three random layers of seven."""
    world = _World(seed, n_layers=7, n_neurons=12)
    every, targets = world.acts.units, []
    for number in range(n):
        layers = world.generator.permutation(7)[:3]
        units = every.select(np.isin(every.hook, layers))
        targets.append(Parts("layer", units, world.acts, str(number), f"task{number % 3}"))
    return _columns(world.effects(targets, seed), "Parts")


def eigenshift(n: int, seed: int) -> dict[str, PValues]:
    """Random components of the output layer."""
    world = _World(seed)
    texts = [frame["prompt"].tolist() for _, frame in world.prompts.groupby("category")]
    made = tlm.related.eigenshift(
        world.model, *texts[:2], n_components=3, n_new_tokens=0, progress=False
    )
    n_components = len(made.singular_values)
    targets = [
        replace(
            made,
            components=np.sort(world.generator.permutation(n_components)[:3]),
            label=str(number),
            category=f"task{number % 3}",
        )
        for number in range(n)
    ]
    return _columns(world.effects(targets, seed), "EigenShift")


def _leace(n: int, seed: int, at: list[str], name: str) -> dict[str, PValues]:
    """Erasures of labels that were drawn at random."""
    world = _World(seed, n_neurons=12)  # an erasure's cost grows with the cube of its coordinates
    texts = world.model.prompts(6)["prompt"].to_numpy()
    targets = []
    for number in range(n):
        halves = np.split(world.generator.permutation(texts), 2)
        category = f"task{number % 3}"
        made = tlm.related.leace(
            world.model, *(half.tolist() for half in halves), at, category=category, progress=False
        )
        targets.append(replace(made, label=str(number)))
    return _columns(world.effects(targets, seed), name)


def leace(n: int, seed: int) -> dict[str, PValues]:
    """LEACE at one hook point."""
    return _leace(n, seed, ["unembed.hook_in"], "LEACE")


def leace_several(n: int, seed: int) -> dict[str, PValues]:
    """LEACE at two hook points, of which the second is fitted under the first one's erasure."""
    at = ["blocks.0.mlp.hook_post", "unembed.hook_in"]
    return _leace(n, seed, at, "LEACE at two hook points")


_UNITS = "a module's units are a random third of all units, in each stratum"
_LABELS = "the concept's labels are permuted over the prompts of the fit"
SIMULATIONS = (
    Simulation(layer, _UNITS, 2000),
    Simulation(magnitude, _UNITS, 2000),
    Simulation(attribution, _UNITS, 2000),
    Simulation(keep_only, _UNITS, 2000),
    Simulation(patch, _UNITS, 2000),
    Simulation(answer, _UNITS, 2000),
    Simulation(sequential, _UNITS, 2000),
    Simulation(uncertain_labels, _UNITS, 2000),
    Simulation(dissociation, "P and Q are the halves of a random partition", 2000),
    Simulation(concepts, _UNITS, 800),
    Simulation(parts, "the parts are a random set of all", 2000),
    Simulation(eigenshift, "the components are a random set of all", 2000),
    Simulation(leace, _LABELS, 2000),
    Simulation(leace_several, _LABELS, 800),
)
