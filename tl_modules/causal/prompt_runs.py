"""Measuring prompts under interventions."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int

from tl_modules.causal.metrics import Task, check_measured
from tl_modules.causal.row_limits import RowLimit
from tl_modules.causal.states import States
from tl_modules.interventions.joined_edits import JoinedEdits
from tl_modules.interventions.positions import Where
from tl_modules.interventions.prepared_units import PreparedUnits
from tl_modules.interventions.stacking import stacked
from tl_modules.models.batches import Batch, uploaded
from tl_modules.models.hooked_model import FwdHooks, HookedModel
from tl_modules.models.prompt_starts import FromTheStart
from tl_modules.models.runs import forward

Intervention = Callable[[Batch], FwdHooks]
"""Makes the hooks of an intervention on a batch."""


def no_intervention(batch: Batch) -> FwdHooks:
    """No hooks."""
    del batch
    return []


def on_batches(fwd_hooks: Callable[..., FwdHooks]) -> Intervention:
    """The intervention of ``fwd_hooks(attention_mask=..., rows=..., ...)``.

    Padding stays unchanged, and so do real tokens that do not count in the batch.
    """

    def make(batch: Batch) -> FwdHooks:
        mask = None if batch.mask.all() else batch.mask  # without padding a mask only costs time
        where = {} if batch.counted.equal(batch.mask) else {"positions": batch.counted}
        return fwd_hooks(attention_mask=mask, rows=batch.rows, **where)

    return make


@dataclass(frozen=True, eq=False)
class UnitRun:
    """The intervention of a set of units, which can share passes with other sets row by row."""

    target: PreparedUnits
    """The units, and what becomes of them."""

    def __call__(self, batch: Batch) -> FwdHooks:
        """Make the hooks on a batch."""
        return on_batches(self.target.fwd_hooks)(batch)


def run_task(
    model: HookedModel,
    task: Task,
    runs: Sequence[Intervention],
    limit: RowLimit,
    done: Callable[[int], object] = lambda n_prompts: None,
    states: States | None = None,
) -> Float[np.ndarray, "runs prompts"]:
    """Measure each prompt under each intervention.

    Interventions share forward passes. Sets of units that are changed alike fill each pass to its
    last row, for every row may have a set of its own. Other interventions share a pass if whole
    copies of a batch fit into it.

    Args:
        model: The model.
        task: The prompts, and what to measure.
        runs: The interventions.
        limit: The rows of a forward pass. Where memory runs out, the limit is halved.
        done: Called after each pass with the number of prompts that were run.
        states: Where the prompts' mean states are kept, if they are read.

    Returns:
        One row per intervention, the prompts in their order.

    Raises:
        ModulesError: If a value is NaN or infinite, or a pass does not fit into memory.
    """
    values = np.empty((len(runs), sum(len(batch.rows) for batch in task.batches)))
    for numbers in _alike(runs):
        group = _Group.of(runs, numbers)
        for batch in task.batches:
            of_passes = list(group.passes(model, task, batch, limit, done, states))
            # A GPU is waited for once the whole batch has been sent to it.
            for of_runs, rows, measured in of_passes:
                values[of_runs, rows] = measured.cpu().numpy()
            check_measured(values[np.array(numbers)[:, None], batch.rows], batch.rows)
    return values


@dataclass(frozen=True, eq=False)
class PassRows:
    """The rows of one pass: the intervention and the row of the batch that each of them is."""

    runs: Int[np.ndarray, " rows"]
    rows: Int[np.ndarray, " rows"]

    @classmethod
    def between(cls, start: int, stop: int, n_rows: int) -> "PassRows":
        """Some rows of all interventions' copies of a batch, one copy after the other.

        Args:
            start: The first row.
            stop: The end.
            n_rows: The rows of the batch.
        """
        return cls(*np.divmod(np.arange(start, stop), n_rows))


def _alike(runs: Sequence[Intervention]) -> list[list[int]]:
    """Group the interventions' numbers: sets of units that are changed alike, and all others."""
    groups: list[list[int]] = []
    for number, run in enumerate(runs):
        group = next((each for each in groups if _are_alike(runs[each[0]], run)), None)
        if group is None:
            groups.append([number])
        else:
            group.append(number)
    return groups


def _are_alike(one: Intervention, other: Intervention) -> bool:
    first, second = _joinable(one), _joinable(other)
    if first is None or second is None:
        return first is second
    return first.recipe.is_same(second.recipe) and first.units.same_hooks(second.units)


def _joinable(run: Intervention) -> PreparedUnits | None:
    """The units of an intervention that can share passes row by row; None for another one.

    Values that are drawn are looked up on the CPU, for all units of all sets if these are joined.
    """
    if not isinstance(run, UnitRun) or run.target.recipe.method == "resample":
        return None
    return run.target


_Measured = tuple[Int[np.ndarray, " rows"], Int[np.ndarray, " rows"], Float[torch.Tensor, " rows"]]
"""The intervention, the prompt and the metric of each row of a pass."""


@dataclass(frozen=True, eq=False)
class _Group:
    """Interventions that can share passes."""

    numbers: Int[np.ndarray, " runs"]
    """The interventions' numbers among all."""

    runs: Sequence[Intervention]

    joined: JoinedEdits | None
    """The edits of sets of units that are changed alike; None for other interventions."""

    @classmethod
    def of(cls, runs: Sequence[Intervention], numbers: Sequence[int]) -> "_Group":
        """The interventions of these numbers."""
        some = [runs[number] for number in numbers]
        targets = [target for run in some if (target := _joinable(run)) is not None]
        joined = None
        if targets:
            joined = JoinedEdits([target.units for target in targets], targets[0].recipe)
        return cls(np.array(numbers), some, joined)

    def passes(
        self,
        model: HookedModel,
        task: Task,
        batch: Batch,
        limit: RowLimit,
        done: Callable[[int], object],
        states: States | None,
    ) -> Iterator[_Measured]:
        """Run a batch of prompts under each intervention, in as few passes as the limit allows."""
        n_rows, start = len(batch.rows), 0

        def measured() -> _Measured:
            """Send the next pass to the model's device."""
            hooks = self._hooks(batch, at)
            of_runs, rows = self.numbers[at.runs], batch.rows[at.rows]
            tokens, mask = batch.tokens[at.rows], batch.mask[at.rows]
            if states is not None:
                hooks = [*hooks, states.reader(of_runs, rows, mask)]
            device = getattr(model.cfg, "device", None)
            tokens, mask = uploaded(tokens, device), uploaded(mask, device)
            logits = forward(model, tokens, mask, hooks)
            return of_runs, rows, task.measure(logits, tokens, mask, rows)

        while start < len(self.runs) * n_rows:
            n_next = limit.rows(start, n_rows, len(self.runs), whole=self.joined is None)
            at = PassRows.between(start, start + n_next, n_rows)
            found = limit.tried(measured, n_next)
            if found is not None:
                yield found
                done(n_next)
                start += n_next

    def _hooks(self, batch: Batch, at: "PassRows") -> FwdHooks:
        if self.joined is not None:
            return row_hooks(batch, at, self.joined)
        # Whole copies of the batch, one for each of some interventions, or a part of one copy.
        some = self.runs[at.runs[0] : at.runs[-1] + 1]
        part = batch.part(at.rows[: len(at.rows) // len(some)])
        return stacked([run(part) for run in some], len(part.rows))


def row_hooks(batch: Batch, at: PassRows, joined: JoinedEdits) -> FwdHooks:
    """The hooks of a pass in which each row has its own set of units.

    Args:
        batch: The prompts.
        at: The rows.
        joined: The edits of the sets.
    """
    mask, counted = batch.mask[at.rows], batch.counted[at.rows]
    where = Where(
        None if batch.counted.equal(batch.mask) else counted,
        None if bool(mask.all()) else mask,
        batch.rows[at.rows],
        FromTheStart(),
    )
    return joined.hooks(at.runs, where)
