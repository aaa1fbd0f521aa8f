"""A metric of a run in which only some modules are kept."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int

from tl_modules.causal.kept_units import KeepMethod, KeptUnits
from tl_modules.causal.token_runs import Rows
from tl_modules.errors import ModulesError
from tl_modules.interventions.ablation import Touched
from tl_modules.interventions.replacements import HasUnitMeans
from tl_modules.models.token_arrays import TokenArray
from tl_modules.modules.module import Module

OUTSIDE = -1
"""The label of units that are in none of the modules."""

Labels = Int[np.ndarray, " units"]
Circuit = tuple[Labels, Sequence[int]]
"""The module of each unit of the site, and the modules that are kept."""


@dataclass(frozen=True, eq=False)
class Kept:
    """A metric of the clean run, with some modules' units and without the others'."""

    task: KeptUnits
    """The units of all modules, some of which are kept."""

    modules: list[Module]
    labels: Labels

    @classmethod
    def prepare(
        cls,
        rows: Rows,
        corrupted_tokens: TokenArray | None,
        metric: Callable[[torch.Tensor], torch.Tensor],
        modules: list[Module],
        method: KeepMethod,
        reference: HasUnitMeans | None,
        positions: Touched,
    ) -> "Kept":
        """Check everything, and measure the metric with all modules and with none."""
        for module in modules:
            module.units.check_model(rows.model)
        every = modules[0].units.every()
        labels = np.full(len(every), OUTSIDE)
        for place, module in enumerate(modules):
            members = module.units.flat()
            if (labels[members] != OUTSIDE).any():
                raise ModulesError(
                    f"The modules of a circuit should share no unit; module {module.label} has "
                    "units of another. Take them from one module set."
                )
            labels[members] = place
        means = modules[0].means if reference is None else reference
        inside = every.select(labels != OUTSIDE)
        task = KeptUnits.prepare(rows, corrupted_tokens, metric, inside, method, means, positions)
        return cls(task, modules, labels)

    def path(
        self, labels: Labels, n_steps: int, choosing: Int[np.ndarray, " prompts"]
    ) -> tuple[list[int], Float[np.ndarray, "steps batch"]]:
        """A greedy circuit: which modules join, in order, and the metric at each step."""
        circuit: list[int] = []
        values = []
        gap = self.task.gap[choosing].sum()
        for _ in range(n_steps):
            free = [place for place in range(len(self.modules)) if place not in circuit]
            metrics = self.measured([(labels, [*circuit, place]) for place in free])
            shares = (metrics - self.task.empty)[:, choosing].sum(axis=1) / gap
            best = int(np.argmin(np.abs(shares - 1)))
            circuit.append(free[best])
            values.append(metrics[best])
        return circuit, np.stack(values)

    def dealt(self, n_controls: int, seed: int) -> list[Labels]:
        """The modules' labels, then the controls': shuffled among the units of each layer."""
        generator = np.random.default_rng([seed, 1])
        hook = self.modules[0].units.every().hook
        dealt = [self.labels]
        for _ in range(n_controls):
            labels = self.labels.copy()
            for layer in np.unique(hook):
                inside = np.flatnonzero((hook == layer) & (labels != OUTSIDE))
                labels[inside] = generator.permutation(labels[inside])
            dealt.append(labels)
        return dealt

    def measured(
        self, circuits: Sequence[Circuit], progress: bool = False
    ) -> Float[np.ndarray, "circuits batch"]:
        """The metric of each prompt when only these modules are kept."""
        every = self.task.units.every()
        kept = [every.select(np.isin(labels, list(places))) for labels, places in circuits]
        return self.task.measured(kept, "circuits", progress)
