"""The few neurons that every prompt needs: found by attribution, confirmed by ablation."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from tqdm.auto import tqdm

from tl_modules.causal.metrics import Measure, Task, make_task
from tl_modules.causal.prompt_runs import Intervention, no_intervention, on_batches, run_task
from tl_modules.errors import ModulesError, check_at_least
from tl_modules.interventions.ablation import Touched
from tl_modules.interventions.hooks import UnitEdits
from tl_modules.interventions.measuring import measures
from tl_modules.interventions.replacements import HasUnitMeans, means_of
from tl_modules.models.batches import Batch
from tl_modules.models.gradients import gradients_of, loss_gradients
from tl_modules.models.hooked_model import HookedModel, flat
from tl_modules.models.losses import n_predicted
from tl_modules.runtime.arguments import checked
from tl_modules.tables.html_tables import html_table
from tl_modules.tables.prompt_frames import categories_of, is_category, labelled, prompt_frame
from tl_modules.tables.prompt_tables import Prompts
from tl_modules.units import Units


@dataclass(frozen=True, eq=False, repr=False)
class SharedUnits:
    """Units whose loss harms every category of prompts."""

    units: Units
    """The units, largest ``least`` first."""

    table: pd.DataFrame
    """One row per unit: ``layer``, ``hook_name``, ``unit``, ``least`` (the unit's smallest
    estimated effect on a category), ``effect`` (the rise of the mean loss when only this unit is
    ablated, nats per token), and ``estimate[CATEGORY]`` and ``effect[CATEGORY]`` for each
    category."""

    def __repr__(self) -> str:
        """One line, not its arrays."""
        return f"SharedUnits({len(self.units)} units)"

    def _repr_html_(self) -> str:
        """For Jupyter: the table."""
        return html_table(repr(self), self.table)


@checked
@measures
def shared_units(
    model: HookedModel,
    prompts: Prompts,
    reference: HasUnitMeans,
    *,
    n_units: int = 16,
    positions: Touched = "content",
    batch_size: int = 16,
    max_tokens: int | None = None,
    progress: bool = True,
) -> SharedUnits:
    """Find the units that every category of prompts needs, whatever module they are in.

    Layer-matched random sets that catch some of these units harm everything more than a module
    does. Units are ranked by their smallest estimated effect on a category (see
    ``ablation_attribution``). Each returned unit is then ablated alone.

    Args:
        model: The model.
        prompts: Strings, or a frame with ``prompt`` and ``category``.
        reference: Activations or modules, whose means replace the units' activations.
        n_units: Number of units to return.
        positions: Tokens at which units are ablated; see ``module_effects``.
        batch_size: Rows of a forward pass.
        max_tokens: Truncate prompts to this many tokens.
        progress: Show progress bars.

    Returns:
        The units, for ``module_effects(..., exclude=shared.units)``, and their table.

    Raises:
        ModulesError: As in ``module_effects``.
    """
    check_at_least("n_units", n_units, 1)
    frame = labelled(prompt_frame(prompts))
    estimates, names = ablation_attribution(
        model,
        frame,
        reference,
        batch_size=batch_size,
        max_tokens=max_tokens,
        progress=progress,
        positions=positions,
    )
    least = estimates.min(axis=0)
    most_needed = np.argsort(-least, kind="stable")[:n_units]
    units = reference.units.select(most_needed)
    categories = categories_of(frame)
    task = make_task(model, frame, "loss", batch_size, max_tokens, positions)
    of_content = positions == "content"
    runs: list[Intervention] = [no_intervention]
    for unit in range(len(units)):
        alone = units.select(np.array([unit]))
        edits = UnitEdits(alone, "mean", reference, of_content=of_content)
        runs.append(on_batches(edits.hooks))
    with tqdm(total=len(runs) * len(frame), desc="shared", disable=not progress) as bar:
        losses = run_task(model, task, runs, batch_size, bar.update)
    rises = losses[1:] - losses[0]
    table = units.to_frame().assign(least=least[most_needed], effect=rises.mean(axis=1))
    for row, name in enumerate(names):
        table[f"estimate[{name}]"] = estimates[row, most_needed]
        table[f"effect[{name}]"] = rises[:, is_category(categories, name)].mean(axis=1)
    return SharedUnits(units, table)


def ablation_attribution(  # noqa: PLR0913 - the options of one pass, all by keyword
    model: HookedModel,
    prompts: Prompts,
    reference: HasUnitMeans,
    *,
    metric: Literal["loss", "answer_logprob"] = "loss",
    batch_size: int = 16,
    max_tokens: int | None = None,
    progress: bool = True,
    task: Task | None = None,
    positions: Touched = "all",
) -> tuple[Float[np.ndarray, "categories units"], list[str]]:
    """The first-order effect of mean-ablating each unit alone, from a backward pass per batch.

    ``sum over positions of (mean - activation) * d metric / d activation``, in nats per token
    (of ``"answer_logprob"`` nats), averaged over each category's prompts.

    Args:
        model: The model.
        prompts: Strings, or a frame with ``prompt`` and ``category``.
        reference: Its means are what ablation puts in a unit's place.
        metric: ``"loss"`` or ``"answer_logprob"``, which have gradients.
        batch_size: Prompts in a pass.
        max_tokens: Truncate prompts to this many tokens.
        progress: Show a progress bar.
        task: The prompts with this metric, if they are tokenised already.
        positions: Tokens at which units are ablated.

    Returns:
        The estimates, and the categories' names.

    Raises:
        ModulesError: If the reference has no means or is another model's, or a prompt has fewer
            than two tokens.
    """
    reference.units.check_model(model)
    of_content = positions == "content"
    # Refuses a reference without means.
    UnitEdits(reference.units, "mean", reference, of_content=of_content)
    means = np.array(means_of(reference, of_content=of_content)[1], dtype=np.float32)
    frame = prompt_frame(prompts)
    categories = categories_of(frame)
    names = list(dict.fromkeys(categories.tolist()))
    if task is None:
        task = make_task(model, frame, metric, batch_size, max_tokens, positions)
    measure = None if metric == "loss" else task.measure
    totals = np.zeros((len(names), len(reference.units)))
    with tqdm(total=len(frame), desc="attribute", unit="prompt", disable=not progress) as bar:
        for batch in task.batches:
            estimates = _batch_estimates(model, measure, batch, reference.units, means)
            for row, name in enumerate(names):
                totals[row] += estimates[is_category(categories[batch.rows], name)].sum(axis=0)
            bar.update(len(batch.rows))
    if not np.isfinite(totals).all():
        raise ModulesError(
            "The estimated effects should be finite; some are not, perhaps since activations or "
            "gradients overflow. Run the model in a wider dtype (float32)."
        )
    counts = np.array([is_category(categories, name).sum() for name in names])
    return totals / counts[:, None], names


def _batch_estimates(
    model: HookedModel,
    measure: Measure | None,
    batch: Batch,
    units: Units,
    means: Float[np.ndarray, " coordinates"],
) -> Float[np.ndarray, "batch units"]:
    """The estimates of each prompt, of its mean loss without a measure: rows do not meet."""
    run = (model, batch.tokens, batch.mask, units.hook_names)
    if measure is None:
        activations, gradients = loss_gradients(*run)  # of the sum over tokens
        scale = n_predicted(batch.mask).numpy()[:, None]
    else:

        def number(logits: torch.Tensor) -> torch.Tensor:
            return measure(logits, batch.tokens, batch.mask, batch.rows)

        activations, gradients = gradients_of(number, *run)
        scale = 1
    pieces, start = [], 0
    for name, width in zip(units.hook_names, units.coordinates().widths, strict=True):
        to = torch.from_numpy(means[start : start + width]).to(gradients[name].device)
        change = to - flat(activations[name], width).float()
        change = change * flat(gradients[name], width).float()
        # Padding may hold NaN in some models.
        change = change.masked_fill(~batch.counted.to(change.device)[..., None], 0)
        pieces.append(change.sum(1).cpu().numpy())
        start += width
    return units.summed(np.concatenate(pieces, axis=1)) / scale
