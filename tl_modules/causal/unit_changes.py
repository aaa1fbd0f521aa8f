"""How the loss changes when units are ablated one by one."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from tl_modules.causal.metrics import Task, check_measured
from tl_modules.causal.passes import stacked_passes
from tl_modules.causal.prompt_runs import no_intervention, on_batches
from tl_modules.interventions.hooks import UnitEdits
from tl_modules.interventions.replacements import HasUnitMeans
from tl_modules.models.hooked_model import HookedModel
from tl_modules.models.losses import n_predicted, token_losses
from tl_modules.units import Units


class UnitChanges(NamedTuple):
    """What mean-ablating each unit alone does to each prompt's loss, in nats per token."""

    rise: Float[np.ndarray, "units prompts"]
    """The rise of the prompt's mean loss."""

    change: Float[np.ndarray, "units prompts"]
    """The mean over the prompt's tokens of the |change| of the token's loss. Rises and falls of
    single tokens do not cancel, so that it is not below |rise|."""


def unit_changes(
    model: HookedModel,
    task: Task,
    units: Units,
    reference: HasUnitMeans,
    max_rows: int,
    done: Callable[[int], object],
    *,
    of_content: bool,
) -> UnitChanges:
    """Ablate units one by one, several in a forward pass (see ``stacked_passes``).

    Args:
        model: The model.
        task: The prompts. Their loss is measured, whatever the task's metric.
        units: The units.
        reference: Its means replace the units' activations.
        max_rows: Rows of a forward pass at most, unless a batch itself has more.
        done: Called after each pass with the number of prompts that were run.
        of_content: Whether the means are those over content; the task's batches have the positions.

    Returns:
        The changes.

    Raises:
        ModulesError: If a loss is NaN or infinite.
    """
    alone = [units.select(np.array([unit])) for unit in range(len(units))]
    edits = [UnitEdits(each, "mean", reference, of_content=of_content) for each in alone]
    runs = [on_batches(edit.hooks) for edit in edits]
    shape = len(units), sum(len(batch.rows) for batch in task.batches)
    changes = UnitChanges(np.empty(shape), np.empty(shape))
    for batch in task.batches:
        counts = n_predicted(batch.mask).numpy()
        hooks = (run(batch) for run in [no_intervention, *runs])
        clean, start = None, 0
        for logits in stacked_passes(model, batch.tokens, batch.mask, hooks, max_rows):
            n_runs = len(logits) // len(batch.rows)
            tokens, mask = (part.repeat(n_runs, 1) for part in (batch.tokens, batch.mask))
            losses = token_losses(logits, tokens, mask).unflatten(0, (n_runs, -1))
            losses = losses.cpu().double().numpy()
            if clean is None:
                clean, losses = losses[0], losses[1:]
                check_measured(clean.sum(-1)[None], batch.rows)
            moved = losses - clean
            of_units = slice(start, start + len(moved))
            changes.rise[of_units, batch.rows] = moved.sum(-1) / counts
            changes.change[of_units, batch.rows] = np.abs(moved).sum(-1) / counts
            check_measured(changes.change[of_units, batch.rows], batch.rows)
            start += len(moved)
            done(len(tokens))
    return changes
