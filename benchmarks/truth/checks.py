"""Whether the owners of a file are true: what ablating each block does to each task."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float

import tl_modules as tlm
from benchmarks.truth.files import Truth

PER_TASK = 20
OWN, MARGIN, KEPT = 0.3, 4.0, 0.3
"""A block must cost its own task this many nats per token, this many times what it costs others;
a task must keep its loss within this many nats when all other blocks are ablated."""


@dataclass(frozen=True, eq=False)
class Check:
    """The rises of the loss, in nats per token, under mean ablation."""

    rises: Float[np.ndarray, "tasks tasks"]
    """Of each task (column) when a task's block (row) is ablated."""

    without_others: Float[np.ndarray, " tasks"]
    """Of each task when every other task's block is ablated at once."""

    shared: Float[np.ndarray, " tasks"] | None
    """Of each task when the shared units are ablated."""

    @property
    def own(self) -> Float[np.ndarray, " tasks"]:
        """What each block costs its own task."""
        return np.diag(self.rises)

    @property
    def other(self) -> Float[np.ndarray, " tasks"]:
        """The most that each block costs another task."""
        return np.where(np.eye(len(self.rises), dtype=bool), -np.inf, self.rises).max(axis=1)

    def failures(self, cancels: bool) -> list[str]:
        """What contradicts the owners. A block that cancels others may cost other tasks much."""
        found = [
            f"block {task} costs its own task {self.own[task]:.2f} nats, another {other:.2f}"
            for task, other in enumerate(self.other)
            if self.own[task] < OWN or (not cancels and self.own[task] < MARGIN * other)
        ]
        found += [
            f"task {task} needs the other blocks: {rise:.2f} nats"
            for task, rise in enumerate(self.without_others)
            if rise > KEPT
        ]
        if self.shared is not None and self.shared.min() < OWN:
            found.append(f"the shared units cost a task {self.shared.min():.2f} nats")
        return found

    def text(self) -> str:
        """The figures, a line each."""
        lines = [
            f"own task {self.own.mean():.2f} nats per token ({self.own.min():.2f} at least)",
            f"another task {self.other.max():.2f} at most",
            f"without all other blocks {self.without_others.max():.2f} at most",
        ]
        if self.shared is not None:
            lines.append(f"without the shared units {self.shared.min():.2f} at least")
        return "; ".join(lines)


def check(truth: Truth) -> Check:
    """Mean-ablate each block, everything but each block, and the shared units."""
    acts = tlm.collect(truth.model, truth.prompts(PER_TASK, 0), batch_size=64, progress=False)
    prompts = truth.prompts(PER_TASK, 1)

    def rises(masks: list[np.ndarray]) -> Float[np.ndarray, "masks tasks"]:
        modules = [true_module(truth, acts, label, mask) for label, mask in enumerate(masks)]
        table = tlm.module_effects(
            truth.model, modules, prompts, n_controls=1, batch_size=400, progress=False
        )
        return effects_of(table, truth)

    tasks = range(truth.n_tasks)
    single = rises([truth.owners == task for task in tasks])
    others = rises([(truth.owners != task) & (truth.owners >= 0) for task in tasks])
    shared = rises([truth.owners < 0])[0] if (truth.owners < 0).any() else None
    return Check(single, np.diag(others), shared)


def true_module(
    truth: Truth, acts: tlm.ActivationMatrix, task: int, mask: Bool[np.ndarray, " units"]
) -> tlm.Module:
    """The units of the mask as a module whose own category is the task's."""
    samples = acts.samples[acts.samples["category"] == truth.categories[task]]
    return tlm.Module(task, acts.units.select(mask), samples, means=acts)


def effects_of(table: pd.DataFrame, truth: Truth) -> Float[np.ndarray, "modules tasks"]:
    """The column ``effect``, one row per module and one column per task."""
    wide = table.pivot(index="module", columns="category", values="effect")
    return wide[truth.categories].to_numpy()
