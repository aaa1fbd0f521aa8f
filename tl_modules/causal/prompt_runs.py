"""What is measured on prompts while units are intervened on."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
from jaxtyping import Float

from tl_modules.causal.metrics import Task, check_measured
from tl_modules.interventions.hooks import stacked, unit_hooks
from tl_modules.models.batches import Batch
from tl_modules.models.hooked_model import FwdHooks, HookedModel, forward
from tl_modules.units import Units

Intervention = Callable[[Batch], FwdHooks]
"""Makes the hooks of an intervention on a batch."""


def no_intervention(batch: Batch) -> FwdHooks:
    """Leaves the model as it is."""
    del batch
    return []


def intervention(
    units: Units, method: str, reference: Any, options: dict[str, Any]
) -> Intervention:
    """An intervention on units; see ``unit_hooks``. Padding is not touched."""
    return on_batches(partial(unit_hooks, units, method, reference, **options))


def on_batches(fwd_hooks: Callable[..., FwdHooks]) -> Intervention:
    """The intervention of ``fwd_hooks(attention_mask=..., rows=...)``. Padding is not touched."""

    def make(batch: Batch) -> FwdHooks:
        mask = None if batch.mask.all() else batch.mask  # no care where there is none
        return fwd_hooks(attention_mask=mask, rows=batch.rows)

    return make


def run_task(
    model: HookedModel,
    task: Task,
    runs: Sequence[Intervention],
    max_rows: int,
    done: Callable[[int], object] = lambda n_prompts: None,
) -> Float[np.ndarray, "runs prompts"]:
    """What a task measures on each prompt under each intervention.

    Several interventions share a forward pass: the batch is stacked so many times as ``max_rows``
    allows, and each copy gets its own.

    Args:
        model: The model.
        task: The prompts, and what to measure.
        runs: The interventions.
        max_rows: Rows of a forward pass at most, where a batch itself is not larger.
        done: Told how many prompts were run, after each pass.

    Returns:
        One row an intervention, the prompts in their order.

    Raises:
        ModulesError: If what is measured is NaN or infinite anywhere.
    """
    values = np.empty((len(runs), sum(len(batch.rows) for batch in task.batches)))
    for batch in task.batches:
        n_rows = len(batch.rows)
        at_once = max(max_rows // n_rows, 1)
        for first in range(0, len(runs), at_once):
            chosen = runs[first : first + at_once]
            tokens, mask = (part.repeat(len(chosen), 1) for part in (batch.tokens, batch.mask))
            hooks = stacked([run(batch) for run in chosen], n_rows)
            logits = forward(model, tokens, mask, hooks)
            found = task.measure(logits, tokens, mask, np.tile(batch.rows, len(chosen)))
            found = found.cpu().numpy().reshape(len(chosen), n_rows)
            check_measured(found, batch.rows)
            values[first : first + len(chosen), batch.rows] = found
            done(len(tokens))
    return values
