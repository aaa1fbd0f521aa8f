"""The effect of ablating each unit alone, estimated from gradients."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from tqdm.auto import tqdm

from tl_modules.causal.metrics import Measure, Task, check_loss_on, make_task, reads_answers
from tl_modules.causal.unit_gradients import Estimate, UnitGradients
from tl_modules.errors import ModulesError, check_at_least, check_choice
from tl_modules.interventions.ablation import Touched
from tl_modules.interventions.hooks import UnitEdits
from tl_modules.interventions.measuring import measures
from tl_modules.interventions.replacements import HasUnitMeans, means_of
from tl_modules.models.answers import with_separator
from tl_modules.models.batch_sizes import BatchSize
from tl_modules.models.batches import Batch
from tl_modules.models.gradients import summed_losses
from tl_modules.models.hooked_model import HookedModel, flat
from tl_modules.models.loss_tokens import LossOn
from tl_modules.models.losses import n_predicted
from tl_modules.runtime.arguments import checked
from tl_modules.tables.html_tables import html_table
from tl_modules.tables.prompt_frames import categories_of, is_category, labelled, prompt_frame
from tl_modules.tables.prompt_tables import Prompts
from tl_modules.units import Units

Part = Literal["signed", "magnitude", "positive", "negative"]


@dataclass(frozen=True, eq=False, repr=False)
class UnitEstimates:
    """Estimated effects of ablating each unit alone, by category of prompts.

    In nats per token (of answers in nats), the mean over the category's prompts. The sign is that
    of ``module_effects``: a positive effect is a rise of the loss.
    """

    units: Units
    """All units of the site."""

    categories: tuple[str, ...]
    """The categories, in the order of the prompts."""

    positive: Float[np.ndarray, "categories units"]
    """The part of the effect at tokens where the unit's activation is at or above 0."""

    negative: Float[np.ndarray, "categories units"]
    """The part of the effect at tokens where the unit's activation is below 0. There a gated neuron
    writes the opposite of its output direction. The activation of a unit of several coordinates is
    a length, which is never below 0."""

    magnitude: Float[np.ndarray, "categories units"]
    """The sum over tokens of the |effect| at each: a unit whose effects cancel has a magnitude."""

    estimate: Estimate
    """How the effects were estimated."""

    @property
    def signed(self) -> Float[np.ndarray, "categories units"]:
        """The effect: the sum over all tokens."""
        return self.positive + self.negative

    @checked
    def of(self, category: str, by: Part = "signed") -> Float[np.ndarray, " units"]:
        """One category's estimates.

        Args:
            category: The category.
            by: Which estimates.

        Raises:
            ModulesError: If there is no such category, or ``by`` is not one of the choices.
        """
        check_choice("category", category, self.categories)
        values: Float[np.ndarray, "categories units"] = getattr(self, by)
        return values[self.categories.index(category)]

    @checked
    def contrast(self, category: str, by: Part = "signed") -> Float[np.ndarray, " units"]:
        """One category's estimates minus the mean of the other categories': a ranking of units.

        Args:
            category: The category.
            by: Which estimates.

        Raises:
            ModulesError: As ``of`` does, or if there is one category.
        """
        own = self.of(category, by)
        if len(self.categories) < 2:
            raise ModulesError(
                "A contrast needs prompts of two categories or more; there is one, "
                f"{category!r}. Estimate on prompts of several."
            )
        others = [self.of(name, by) for name in self.categories if name != category]
        return own - np.mean(others, axis=0)

    def to_frame(self) -> pd.DataFrame:
        """One row per unit: ``layer``, ``hook_name``, ``unit``, and each category's estimates.

        Their columns are ``signed[CATEGORY]``, ``positive[CATEGORY]``, ``negative[CATEGORY]`` and
        ``magnitude[CATEGORY]``.
        """
        parts: tuple[Part, ...] = ("signed", "positive", "negative", "magnitude")
        columns = {
            f"{part}[{name}]": self.of(name, part) for name in self.categories for part in parts
        }
        return pd.concat([self.units.to_frame(), pd.DataFrame(columns)], axis=1)

    def __repr__(self) -> str:
        """One line, not its arrays."""
        return (
            f"UnitEstimates({len(self.units):,} units, {len(self.categories)} categories, "
            f"by {self.estimate})"
        )

    def _repr_html_(self) -> str:
        """For Jupyter: the table."""
        return html_table(repr(self), self.to_frame())


@checked
@measures
def unit_estimates(  # noqa: PLR0913 - the options of one pass, all by keyword
    model: HookedModel,
    prompts: Prompts,
    reference: HasUnitMeans,
    *,
    estimate: Estimate = "gradient",
    n_steps: int = 3,
    metric: Literal["loss", "answer_logprob"] = "loss",
    loss_on: LossOn = "prompt",
    separator: str | None = None,
    positions: Touched = "content",
    batch_size: BatchSize = "auto",
    max_tokens: int | None = None,
    progress: bool = True,
) -> UnitEstimates:
    """Estimate the effect of mean-ablating each unit of a site alone, without an ablation of each.

    To first order, the effect is the sum over tokens of ``(mean - activation) * gradient of the
    metric``. The cost is one backward pass over the prompts.

    Args:
        model: The model.
        prompts: Strings, or a frame with ``prompt`` and ``category``.
        reference: Activations or modules, whose means replace the units' activations.
        estimate: ``"gradient"``: the model's own gradient, which agrees best with ablation
            over all units.
            ``"integrated_gradients"``: its mean over midpoints of the path on which the units of
            one hook point go from their activations to their means together; a path that moves
            every layer at once leads too far from a single unit's ablation. ``"relp"``: the
            gradient of a model whose normalisations, activation functions and attention patterns
            are constant factors, and whose gated products pass half to each factor (Rezaei Jafari
            et al. 2025, arXiv 2508.21258).
        n_steps: Midpoints of integrated gradients: backward passes per hook point.
        metric: ``"loss"`` or ``"answer_logprob"``, which have gradients; see ``module_effects``.
        loss_on: The tokens over which ``"loss"`` is averaged; see ``module_effects``.
        separator: Text between each prompt and its answer; see ``module_effects``.
        positions: Tokens at which units are ablated; see ``module_effects``.
        batch_size: Prompts in a pass; ``"auto"``: as many as memory holds (``collect``).
        max_tokens: Truncate prompts to this many tokens.
        progress: Show a progress bar.

    Returns:
        The estimates of each category and unit.

    Raises:
        ModulesError: If the model lacks hook points that ``"relp"`` needs, an estimate is not
            finite, or as in ``module_effects``.
    """
    check_at_least("n_steps", n_steps, 1)
    check_loss_on(metric, loss_on)
    frame = labelled(prompt_frame(prompts))
    frame = with_separator(frame, separator, answers=reads_answers(metric, loss_on))
    task = make_task(
        *(model, frame, metric, batch_size, max_tokens, positions),
        loss_on=loss_on,
        gradients=True,
    )
    return estimates_of(
        model,
        frame,
        reference,
        task,
        estimate=estimate,
        n_steps=n_steps,
        measure=None if metric == "loss" else task.measure,
        of_content=positions == "content",
        progress=progress,
    )


def estimates_of(  # noqa: PLR0913 - the options of one pass, all by keyword
    model: HookedModel,
    frame: pd.DataFrame,
    reference: HasUnitMeans,
    task: Task,
    *,
    estimate: Estimate = "gradient",
    n_steps: int = 3,
    measure: Measure | None = None,
    of_content: bool,
    progress: bool = True,
) -> UnitEstimates:
    """Estimate the effects on prompts that are tokenised already.

    Args:
        model: The model.
        frame: What ``prompt_frame`` returned.
        reference: Its means are what ablation puts in a unit's place.
        task: The frame's prompts, with the positions at which units are ablated.
        estimate: The kind of estimate.
        n_steps: Midpoints of integrated gradients.
        measure: The metric; by default the mean loss over the task's tokens.
        of_content: Whether the means are those over content.
        progress: Show a progress bar.

    Returns:
        The estimates.

    Raises:
        ModulesError: As ``unit_estimates`` does.
    """
    units = reference.units
    units.check_model(model)
    UnitEdits(units, "mean", reference, of_content=of_content)  # refuses a lack of means
    means = np.array(means_of(reference, of_content=of_content)[1], dtype=np.float32)
    summed = _summed_losses(task) if measure is None else measure
    gradients = UnitGradients(model, units, means, estimate, n_steps, summed)
    categories = categories_of(frame)
    names = list(dict.fromkeys(categories.tolist()))
    totals = np.zeros((3, len(names), len(units)))
    with tqdm(total=len(frame), desc="attribute", unit="prompt", disable=not progress) as bar:
        for batch in task.batches:
            parts = _batch_estimates(gradients, batch, units)
            if measure is None:
                counts = n_predicted(batch.mask, task.texts.starts_of(batch.rows))
                parts = parts / counts.numpy()[:, None]
            for row, name in enumerate(names):
                totals[:, row] += parts[:, is_category(categories[batch.rows], name)].sum(axis=1)
            bar.update(len(batch.rows))
    if not np.isfinite(totals).all():
        raise ModulesError(
            "The estimated effects should be finite; some are not, perhaps since activations or "
            "gradients overflow. Run the model in a wider dtype (float32)."
        )
    counts = np.array([is_category(categories, name).sum() for name in names])
    positive, negative, magnitude = totals / counts[:, None]
    return UnitEstimates(units, tuple(names), positive, negative, magnitude, estimate)


def _summed_losses(task: Task) -> Measure:
    """The sum over tokens of the loss, not its mean, whose gradient is too small for float16."""

    def summed(
        logits: torch.Tensor, tokens: torch.Tensor, mask: torch.Tensor, rows: np.ndarray
    ) -> torch.Tensor:
        return summed_losses(tokens, mask, task.texts.starts_of(rows))(logits)

    return summed


def _batch_estimates(
    gradients: UnitGradients, batch: Batch, units: Units
) -> Float[np.ndarray, "3 batch units"]:
    """The positive, negative and absolute estimates of each prompt."""
    activations, slopes = gradients.of_batch(batch)
    pieces = []
    for name, span, means in zip(
        units.hook_names, units.spans, gradients.means.values(), strict=True
    ):
        own = flat(activations[name], len(means)).float()
        change = (means.to(own) - own) * flat(slopes[name], len(means)).float()
        # Padding may hold NaN in some models.
        change = change.masked_fill(~batch.counted.to(change.device)[..., None], 0)
        # Ablation replaces all coordinates of a unit at once: magnitudes are of their sum.
        change = change.unflatten(-1, (-1, span)).sum(-1)
        is_negative = own < 0 if span == 1 else torch.zeros_like(change, dtype=torch.bool)
        parts = (
            change.masked_fill(is_negative, 0),
            change.masked_fill(~is_negative, 0),
            change.abs(),
        )
        pieces.append(torch.stack([part.sum(1) for part in parts]).cpu().numpy())
    return np.concatenate(pieces, axis=-1)
