"""P-values of graphs and circuits of a random partition of the planted model's units."""

from typing import Any

import numpy as np
import torch

import tl_modules as tlm
from benchmarks.calibration.levels import PValues, Simulation, generator_of
from benchmarks.calibration.planted import PlantedModel, module_set, random_labels

N_CONTROLS, N_MODULES = 19, 3


def _logit(logits: torch.Tensor) -> torch.Tensor:
    """The largest logit at the last token."""
    return logits[:, -1].max(dim=-1).values


class _World:
    """The planted model with coupled layers, and random partitions of its units."""

    def __init__(self, seed: int, n_layers: int = 1) -> None:
        self.model = PlantedModel(coupling=0.5, n_layers=n_layers)
        self.acts = tlm.collect(self.model, self.model.prompts(2), progress=False)
        texts = (self.model.prompts(3, at, n_symbols=2)["prompt"] for at in (1, 2))
        self.clean, self.corrupted = (
            torch.cat([self.model.to_tokens(text) for text in each]) for each in texts
        )
        self.generator = generator_of(seed)

    def modules(self) -> tlm.ModuleSet:
        """A random partition."""
        labels = random_labels(len(self.acts.units), N_MODULES, self.generator)
        samples = np.arange(len(self.acts.samples)) % N_MODULES
        return module_set(self.acts, labels, samples, N_MODULES)

    def run(self, function: Any, *given: Any, seed: int, **options: Any) -> Any:
        """A graph or circuit of a random partition."""
        return function(
            self.model,
            self.clean,
            self.corrupted,
            _logit,
            self.modules(),
            *given,
            n_controls=N_CONTROLS,
            batch_size=2000,
            seed=seed,
            progress=False,
            **options,
        )


def graph(n: int, seed: int) -> dict[str, PValues]:
    """Nodes and edges."""
    world, nodes, edges = _World(seed, n_layers=2), [], []
    for number in range(n):
        found = world.run(tlm.module_graph, seed=number)
        nodes.append(found.nodes["p_value"])
        edges.append(found.edges["p_value"])
    return {"module_graph, nodes": np.array(nodes), "module_graph, edges": np.array(edges)}


def scores(n: int, seed: int) -> dict[str, PValues]:
    """A circuit of two of three modules."""
    world, table, minimality = _World(seed, n_layers=2), [], []
    for number in range(n):
        found = world.run(tlm.circuit_scores, [0, 1], seed=number, method="zero")
        table.append(found.table["p_value"])
        minimality.append(found.minimality["p_value"])
    shares = np.array(table)
    return {
        "circuit_scores, faithfulness": shares[:, :1],
        "circuit_scores, completeness": shares[:, 1:],
        "circuit_scores, minimality": np.array(minimality),
    }


def greedy(n: int, seed: int) -> dict[str, PValues]:
    """The first two steps of three; the last circuit and its controls hold everything."""
    world = _World(seed)
    found = [
        world.run(tlm.greedy_circuit, seed=number, n_steps=2, method="zero")["p_value"]
        for number in range(n)
    ]
    return {"greedy_circuit, steps": np.array(found)}


_NULL = "modules are a random partition of all units"
SIMULATIONS = (
    Simulation(graph, _NULL, 800),
    Simulation(scores, _NULL, 2000),
    Simulation(greedy, _NULL, 920),
)
