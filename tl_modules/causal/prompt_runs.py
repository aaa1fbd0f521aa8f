"""Measuring prompts under interventions."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from tl_modules.causal.metrics import Task, check_measured
from tl_modules.causal.states import States
from tl_modules.interventions.joined_edits import JoinedEdits
from tl_modules.interventions.positions import Where
from tl_modules.interventions.prepared_units import PreparedUnits
from tl_modules.interventions.stacking import stacked
from tl_modules.models.batches import Batch
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
    max_rows: int,
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
        max_rows: Rows of a forward pass at most, unless a batch itself has more.
        done: Called after each pass with the number of prompts that were run.
        states: Where the prompts' mean states are kept, if they are read.

    Returns:
        One row per intervention, the prompts in their order.

    Raises:
        ModulesError: If a value is NaN or infinite.
    """
    values = np.empty((len(runs), sum(len(batch.rows) for batch in task.batches)))
    for numbers in _alike(runs):
        members = [runs[number] for number in numbers]
        joined = _joined(members)
        for batch in task.batches:
            measured = []
            if joined is None:
                passes = _copies(batch, members, max_rows)
            else:
                passes = row_passes(batch, len(members), max_rows, joined)
            for at, hooks in passes:
                of_runs, rows = np.array(numbers)[at.runs], batch.rows[at.rows]
                tokens, mask = batch.tokens[at.rows], batch.mask[at.rows]
                if states is not None:
                    hooks = [*hooks, states.reader(of_runs, rows, mask)]
                logits = forward(model, tokens, mask, hooks)
                measured.append((of_runs, rows, task.measure(logits, tokens, mask, rows)))
                done(len(rows))
            # A GPU is waited for once the whole batch has been sent to it.
            for of_runs, rows, found in measured:
                values[of_runs, rows] = found.cpu().numpy()
            check_measured(values[numbers][:, batch.rows], batch.rows)
    return values


@dataclass(frozen=True, eq=False)
class PassRows:
    """The rows of one pass: the intervention and the row of the batch that each of them is."""

    runs: Int[np.ndarray, " rows"]
    rows: Int[np.ndarray, " rows"]


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
    if not isinstance(one, UnitRun) or not isinstance(other, UnitRun):
        return not isinstance(one, UnitRun) and not isinstance(other, UnitRun)
    first, second = one.target, other.target
    return first.recipe.is_same(second.recipe) and first.units.same_hooks(second.units)


def _joined(runs: Sequence[Intervention]) -> JoinedEdits | None:
    """The edits of sets of units that are changed alike; None for other interventions."""
    targets = [run.target for run in runs if isinstance(run, UnitRun)]
    if not targets:
        return None
    return JoinedEdits([target.units for target in targets], targets[0].recipe)


def row_passes(
    batch: Batch, n_runs: int, max_rows: int, joined: JoinedEdits
) -> Iterator[tuple[PassRows, FwdHooks]]:
    """Passes of as many rows as are allowed, each row with its own set of units.

    Args:
        batch: The prompts.
        n_runs: How many sets of units ``joined`` has. Each runs on every prompt.
        max_rows: Rows of a pass, unless the batch itself has more.
        joined: The edits of the sets.

    Yields:
        What the rows of a pass are, all prompts of the first set first, and the pass's hooks.
    """
    n_rows = len(batch.rows)
    every = batch.counted.equal(batch.mask)
    for start in range(0, n_runs * n_rows, max(max_rows, n_rows)):
        numbers = np.arange(start, min(start + max(max_rows, n_rows), n_runs * n_rows))
        at = PassRows(*np.divmod(numbers, n_rows))
        mask, counted = batch.mask[at.rows], batch.counted[at.rows]
        where = Where(
            None if every else counted,
            None if bool(mask.all()) else mask,
            batch.rows[at.rows],
            FromTheStart(),
        )
        yield at, joined.hooks(at.runs, where)


def _copies(
    batch: Batch, runs: Sequence[Intervention], max_rows: int
) -> Iterator[tuple[PassRows, FwdHooks]]:
    """Passes of whole copies of the batch, one for each of some interventions."""
    n_rows = len(batch.rows)
    at_once = max(max_rows // n_rows, 1)
    for start in range(0, len(runs), at_once):
        some = runs[start : start + at_once]
        of_runs, rows = np.divmod(np.arange(len(some) * n_rows), n_rows)
        yield PassRows(start + of_runs, rows), stacked([run(batch) for run in some], n_rows)
