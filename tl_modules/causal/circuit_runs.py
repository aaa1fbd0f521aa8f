"""A metric of a run in which only some modules are kept."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int

from tl_modules.causal.token_runs import Rows, check_pairs, tokens_of
from tl_modules.errors import ModulesError
from tl_modules.interventions.ablation import Touched
from tl_modules.interventions.hooks import unit_hooks
from tl_modules.interventions.replacements import HasUnitMeans
from tl_modules.models.content_tokens import content_tokens
from tl_modules.models.hooked_model import FwdHooks
from tl_modules.models.token_arrays import TokenArray
from tl_modules.modules.module import Module
from tl_modules.tables.against_controls import run_rounding
from tl_modules.units import Units

CircuitMethod = Literal["patch", "mean", "zero"]
"""What becomes of units outside a circuit; see ``replacements.Method``."""


OUTSIDE = -1
"""The label of units that are in none of the modules."""

Labels = Int[np.ndarray, " units"]
Circuit = tuple[Labels, Sequence[int]]
"""The module of each unit of the site, and the modules that are kept."""


@dataclass(frozen=True, eq=False)
class Kept:
    """A metric of the clean run, with some modules' units and without the others'."""

    rows: Rows
    metric: Callable[[torch.Tensor], torch.Tensor]
    modules: list[Module]
    ablated: Callable[[Units], FwdHooks]
    labels: Labels
    full: Float[np.ndarray, " batch"]
    """The metric of each prompt with all modules."""
    empty: Float[np.ndarray, " batch"]
    """The metric of each prompt with none."""

    @classmethod
    def prepare(
        cls,
        rows: Rows,
        corrupted_tokens: TokenArray | None,
        metric: Callable[[torch.Tensor], torch.Tensor],
        modules: list[Module],
        method: CircuitMethod,
        reference: HasUnitMeans | None,
        positions: Touched,
    ) -> "Kept":
        """Check everything, and measure the metric with all modules and with none."""
        rows.check()
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
        source = None
        if method == "patch":
            if corrupted_tokens is None:
                raise ModulesError(
                    "method='patch' takes its values from the corrupted run. Pass "
                    "corrupted_tokens, or use method='mean'."
                )
            corrupted = tokens_of(rows.model, "corrupted_tokens", corrupted_tokens)
            check_pairs(rows.tokens, corrupted)
            if torch.equal(rows.tokens.cpu(), corrupted.cpu()):
                raise ModulesError(
                    "clean_tokens and corrupted_tokens should differ; they are the same. Patching "
                    "between them changes nothing."
                )
            other = Rows(rows.model, corrupted, rows.attention_mask, rows.batch_size)
            source = other.activations(every.hook_names)
        means = modules[0].means if reference is None else reference
        where = None
        if positions == "content" and method != "patch":
            real = rows.attention_mask
            real = torch.ones_like(rows.tokens, dtype=torch.bool) if real is None else real
            where = content_tokens(rows.model, rows.tokens, real)

        def ablated(units: Units) -> FwdHooks:
            return unit_hooks(
                units,
                method,
                means,
                source=source,
                positions=where,
                attention_mask=rows.attention_mask,
            )

        inside = every.select(labels != OUTSIDE)
        full, empty = rows.measured(metric, [[], ablated(inside)], "", progress=False)
        task = cls(rows, metric, modules, ablated, labels, full, empty)
        task.check_gap(np.arange(len(full)))
        return task

    @property
    def rounding(self) -> float:
        """How far rounding may move a share: a hundred thousandth of the metric."""
        return run_rounding(self.full, self.empty) / abs(float((self.full - self.empty).mean()))

    def check_gap(self, prompts: Int[np.ndarray, " prompts"]) -> None:
        """Refuse prompts on which the modules make no difference to the metric."""
        full, empty = self.full[prompts], self.empty[prompts]
        if abs(full.mean() - empty.mean()) <= run_rounding(full, empty):
            raise ModulesError(
                f"Ablating all modules should change the metric; over {len(prompts)} prompts it "
                f"stays at {full.mean():.6g}. Use a metric that depends on them, or prompts that "
                "differ more."
            )

    def path(
        self, labels: Labels, n_steps: int, choosing: Int[np.ndarray, " prompts"]
    ) -> tuple[list[int], Float[np.ndarray, "steps batch"]]:
        """A greedy circuit: which modules join, in order, and the metric at each step."""
        circuit: list[int] = []
        values = []
        gap = (self.full - self.empty)[choosing].sum()
        for _ in range(n_steps):
            free = [place for place in range(len(self.modules)) if place not in circuit]
            metrics = self.measured([(labels, [*circuit, place]) for place in free])
            shares = (metrics - self.empty)[:, choosing].sum(axis=1) / gap
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
        every = self.modules[0].units.every()
        runs = [
            self.ablated(every.select(~np.isin(labels, [*kept, OUTSIDE])))
            for labels, kept in circuits
        ]
        return self.rows.measured(self.metric, runs, "circuits", progress)
