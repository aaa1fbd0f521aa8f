"""The few neurons that every prompt needs: found by attribution, confirmed by ablation."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from tqdm.auto import tqdm

from tl_modules.causal.metrics import Measure, Task, make_task
from tl_modules.causal.unit_changes import unit_changes
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
    """Units whose ablation changes the loss of every category of prompts."""

    units: Units
    """The units, largest ``measured`` first."""

    table: pd.DataFrame
    """One row per unit: ``layer``, ``hook_name``, ``unit``, and in nats per token, when only this
    unit is ablated, ``measured[CATEGORY]``, the mean |change| of a token's loss,
    ``estimate[CATEGORY]``, its estimate from gradients, and ``effect[CATEGORY]``, the rise of the
    mean loss. ``measured`` and ``estimate`` are the lower quartile over the categories (of up to
    four categories the smallest), ``effect`` is the mean over all prompts."""

    def __repr__(self) -> str:
        """One line, not its arrays."""
        return f"SharedUnits({len(self.units)} units)"

    def _repr_html_(self) -> str:
        """For Jupyter: the table."""
        return html_table(repr(self), self.table)


@checked
@measures
def shared_units(  # noqa: PLR0913 - the options of one search, all by keyword
    model: HookedModel,
    prompts: Prompts,
    reference: HasUnitMeans,
    *,
    n_units: int = 16,
    positions: Touched = "content",
    shortlist: int | None = None,
    batch_size: int = 16,
    max_tokens: int | None = None,
    progress: bool = True,
) -> SharedUnits:
    """Find the units that every category of prompts needs, whatever module they are in.

    Gradients give a shortlist: the units with the largest mean |(mean - activation) x gradient of
    the loss| in the lower quartile of the categories. Each is then ablated alone, and the units
    with the largest measured mean |change| of a token's loss come first, again in the lower
    quartile: what counts is a change that at least three of four categories reach. The smallest of
    many categories would hang on one in which the unit happens to be idle. Magnitudes are ranked
    because a unit's rise of the mean loss is close to 0 where rises and falls cancel.

    Args:
        model: The model.
        prompts: Strings, or a frame with ``prompt`` and ``category``.
        reference: Activations or modules, whose means replace the units' activations.
        n_units: Number of units to return.
        positions: Tokens at which units are ablated; see ``module_effects``.
        shortlist: Number of units to ablate; by default four times ``n_units``. The cost is one
            backward pass and ``shortlist + 1`` forward passes over the prompts.
        batch_size: Rows of a forward pass. Several ablations share a pass of fewer prompts.
        max_tokens: Truncate prompts to this many tokens.
        progress: Show progress bars.

    Returns:
        The units, for ``module_effects(..., exclude=shared.units)``, and their table.

    Raises:
        ModulesError: If ``shortlist`` is below ``n_units``, or as in ``module_effects``.
    """
    check_at_least("n_units", n_units, 1)
    n_ablated = 4 * n_units if shortlist is None else shortlist
    if n_ablated < n_units:
        raise ModulesError(
            f"shortlist should be at least n_units={n_units}; got {n_ablated}. Leave it out for "
            "four times n_units."
        )
    frame = labelled(prompt_frame(prompts))
    task = make_task(model, frame, "loss", batch_size, max_tokens, positions)
    of_content = positions == "content"
    estimates, names = ablation_magnitudes(
        model, frame, reference, task, of_content=of_content, progress=progress
    )
    listed = np.argsort(-lower_quartile(estimates), kind="stable")[:n_ablated]
    units = reference.units.select(listed)
    with tqdm(total=(1 + len(units)) * len(frame), desc="shared", disable=not progress) as bar:
        changes = unit_changes(
            model, task, units, reference, batch_size, bar.update, of_content=of_content
        )
    categories = categories_of(frame)
    measured, effects = (
        np.stack([values[:, is_category(categories, name)].mean(axis=1) for name in names])
        for values in (changes.change, changes.rise)
    )
    best = np.argsort(-lower_quartile(measured), kind="stable")[:n_units]
    estimates, measured, effects = estimates[:, listed[best]], measured[:, best], effects[:, best]
    table = (
        units.select(best)
        .to_frame()
        .assign(
            measured=lower_quartile(measured),
            estimate=lower_quartile(estimates),
            effect=changes.rise[best].mean(axis=1),
        )
    )
    for row, name in enumerate(names):
        table[f"measured[{name}]"] = measured[row]
        table[f"estimate[{name}]"] = estimates[row]
        table[f"effect[{name}]"] = effects[row]
    return SharedUnits(units.select(best), table)


def lower_quartile(
    values: Float[np.ndarray, "categories units"],
) -> Float[np.ndarray, " units"]:
    """Each unit's largest value that at least three quarters of the categories reach."""
    return np.quantile(values, 0.25, axis=0, method="lower")


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
    frame = prompt_frame(prompts)
    if task is None:
        task = make_task(model, frame, metric, batch_size, max_tokens, positions)
    measure = None if metric == "loss" else task.measure
    with tqdm(total=len(frame), desc="attribute", unit="prompt", disable=not progress) as bar:
        return _by_category(
            *(model, frame, reference, task, bar.update),
            measure=measure,
            of_content=positions == "content",
        )


def ablation_magnitudes(
    model: HookedModel,
    frame: pd.DataFrame,
    reference: HasUnitMeans,
    task: Task,
    *,
    of_content: bool,
    progress: bool = True,
) -> tuple[Float[np.ndarray, "categories units"], list[str]]:
    """The first-order size of what mean-ablating each unit alone does to the loss.

    ``sum over positions of |(mean - activation) * d loss / d activation|``, in nats per token,
    averaged over each category's prompts. The signed sum, ``ablation_attribution``, is the
    difference of large parts where the loss is near its minimum: units that all prompts need may
    come last by it.

    Args:
        model: The model.
        frame: What ``prompt_frame`` returned.
        reference: Its means are what ablation puts in a unit's place.
        task: The frame's prompts, tokenised, with the positions at which units are ablated.
        of_content: Whether the means are those over content.
        progress: Show a progress bar.

    Returns:
        The sizes, and the categories' names.

    Raises:
        ModulesError: If the reference has no means or is another model's.
    """
    with tqdm(total=len(frame), desc="attribute", unit="prompt", disable=not progress) as bar:
        return _by_category(
            *(model, frame, reference, task, bar.update), signed=False, of_content=of_content
        )


def _by_category(
    model: HookedModel,
    frame: pd.DataFrame,
    reference: HasUnitMeans,
    task: Task,
    done: Callable[[int], object],
    *,
    of_content: bool,
    measure: Measure | None = None,
    signed: bool = True,
) -> tuple[Float[np.ndarray, "categories units"], list[str]]:
    """Each category's mean estimates, and the categories' names."""
    units = reference.units
    units.check_model(model)
    UnitEdits(units, "mean", reference, of_content=of_content)  # refuses a lack of means
    means = np.array(means_of(reference, of_content=of_content)[1], dtype=np.float32)
    categories = categories_of(frame)
    names = list(dict.fromkeys(categories.tolist()))
    totals = np.zeros((len(names), len(units)))
    for batch in task.batches:
        estimates = _batch_estimates(model, measure, batch, units, means, signed=signed)
        for row, name in enumerate(names):
            totals[row] += estimates[is_category(categories[batch.rows], name)].sum(axis=0)
        done(len(batch.rows))
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
    *,
    signed: bool,
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
    for name, span, width in zip(
        units.hook_names, units.spans, units.coordinates().widths, strict=True
    ):
        to = torch.from_numpy(means[start : start + width]).to(gradients[name].device)
        change = to - flat(activations[name], width).float()
        change = change * flat(gradients[name], width).float()
        # Padding may hold NaN in some models.
        change = change.masked_fill(~batch.counted.to(change.device)[..., None], 0)
        # Ablation replaces all coordinates of a unit at once: magnitudes are of their sum.
        change = change.unflatten(-1, (-1, span)).sum(-1)
        pieces.append((change if signed else change.abs()).sum(1).cpu().numpy())
        start += width
    return np.concatenate(pieces, axis=1) / scale
