"""How the loss changes when units are ablated one by one."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from tl_modules.causal.metrics import Task, check_measured
from tl_modules.causal.prompt_runs import PassRows, row_hooks
from tl_modules.interventions.joined_edits import JoinedEdits, Recipe
from tl_modules.interventions.replacements import HasUnitMeans
from tl_modules.models.hooked_model import HookedModel
from tl_modules.models.losses import n_predicted, token_losses
from tl_modules.models.runs import forward
from tl_modules.units import Units

_TOGETHER = 1000
"""Units whose edits are prepared together: their masks grow with the square of this number."""


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
    """Ablate units one by one, several in a forward pass.

    Args:
        model: The model.
        task: The prompts. The loss of the tokens that the task names is measured, whatever its
            metric.
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
    recipe = Recipe("mean", reference, of_content=of_content)
    shape = len(units), sum(len(batch.rows) for batch in task.batches)
    changes = UnitChanges(np.empty(shape), np.empty(shape))
    all_clean: dict[int, Float[np.ndarray, "batch next"]] = {}
    for start in range(0, len(units), _TOGETHER):
        some = np.arange(start, min(start + _TOGETHER, len(units)))
        sets = [units.select(some[[at]]) for at in range(len(some))]
        if start == 0:
            sets.insert(0, units.select(some[:0]))  # changes nothing: the clean run
        n_clean = len(sets) - len(some)
        joined = JoinedEdits(sets, recipe)
        for number, batch in enumerate(task.batches):
            n_rows, clean = len(batch.rows), all_clean.get(number)
            starts = task.texts.starts_of(batch.rows)
            counts = n_predicted(batch.mask, starts).numpy()
            n_all, step = len(sets) * n_rows, max(max_rows, n_rows)
            for first in range(0, n_all, step):
                at = PassRows.between(first, min(first + step, n_all), n_rows)
                hooks = row_hooks(batch, at, joined)
                tokens, mask = batch.tokens[at.rows], batch.mask[at.rows]
                logits = forward(model, tokens, mask, hooks)
                first_counted = None if starts is None else starts[at.rows]
                losses = token_losses(logits, tokens, mask, first_counted).cpu().double().numpy()
                done(len(losses))
                if clean is None:  # the first pass holds all rows of the first set
                    clean = all_clean[number] = losses[:n_rows]
                    check_measured(clean.sum(-1)[None], batch.rows)
                is_unit = at.runs >= n_clean
                rows = at.rows[is_unit]
                moved = losses[is_unit] - clean[rows]
                place = some[at.runs[is_unit] - n_clean], batch.rows[rows]
                changes.rise[place] = moved.sum(-1) / counts[rows]
                changes.change[place] = np.abs(moved).sum(-1) / counts[rows]
            check_measured(changes.change[some[:, None], batch.rows], batch.rows)
    return changes
