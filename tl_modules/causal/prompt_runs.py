"""Measuring prompts under interventions."""

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float

from tl_modules.causal.metrics import Task, check_measured
from tl_modules.causal.passes import stacked_passes
from tl_modules.models.batches import Batch
from tl_modules.models.hooked_model import FwdHooks, HookedModel

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


def run_task(
    model: HookedModel,
    task: Task,
    runs: Sequence[Intervention],
    max_rows: int,
    done: Callable[[int], object] = lambda n_prompts: None,
) -> Float[np.ndarray, "runs prompts"]:
    """Measure each prompt under each intervention.

    Several interventions share a forward pass; see ``stacked_passes``.

    Args:
        model: The model.
        task: The prompts, and what to measure.
        runs: The interventions.
        max_rows: Rows of a forward pass at most, unless a batch itself has more.
        done: Called after each pass with the number of prompts that were run.

    Returns:
        One row per intervention, the prompts in their order.

    Raises:
        ModulesError: If a value is NaN or infinite.
    """
    values = np.empty((len(runs), sum(len(batch.rows) for batch in task.batches)))
    for batch in task.batches:
        n_rows, first = len(batch.rows), 0
        hooks = (run(batch) for run in runs)
        for logits in stacked_passes(model, batch.tokens, batch.mask, hooks, max_rows):
            n_runs = len(logits) // n_rows
            tokens, mask = (part.repeat(n_runs, 1) for part in (batch.tokens, batch.mask))
            measured = task.measure(logits, tokens, mask, np.tile(batch.rows, n_runs))
            measured = measured.cpu().numpy().reshape(n_runs, n_rows)
            check_measured(measured, batch.rows)
            values[first : first + n_runs, batch.rows] = measured
            first += n_runs
            done(len(tokens))
    return values
