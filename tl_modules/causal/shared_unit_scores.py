"""The few neurons that every prompt needs: found by attribution, confirmed by ablation."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Float
from tqdm.auto import tqdm

from tl_modules.causal.metrics import make_task
from tl_modules.causal.unit_changes import unit_changes
from tl_modules.causal.unit_estimates import estimates_of
from tl_modules.errors import ModulesError, check_at_least
from tl_modules.interventions.ablation import Touched
from tl_modules.interventions.measuring import measures
from tl_modules.interventions.replacements import HasUnitMeans
from tl_modules.models.batch_sizes import BatchSize, batch_size_for
from tl_modules.models.hooked_model import HookedModel
from tl_modules.models.loss_tokens import LossOn
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
    loss_on: LossOn = "prompt",
    batch_size: BatchSize = "auto",
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
        prompts: Strings, or a frame with ``prompt`` and ``category`` (and ``answer`` and
            ``separator``, if ``loss_on`` reads answers).
        reference: Activations or modules, whose means replace the units' activations.
        n_units: Number of units to return.
        positions: Tokens at which units are ablated; see ``module_effects``.
        shortlist: Number of units to ablate; by default four times ``n_units``. The cost is one
            backward pass and ``shortlist + 1`` forward passes over the prompts.
        loss_on: The tokens over which the loss is averaged; see ``module_effects``.
        batch_size: Rows of a forward pass; ``"auto"``: as many as memory holds (``collect``).
            Several ablations share a pass of fewer prompts.
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
    task = make_task(
        *(model, frame, "loss", batch_size, max_tokens, positions),
        loss_on=loss_on,
        gradients=True,
    )
    n_rows = batch_size_for(model, batch_size, task.token_lists)
    of_content = positions == "content"
    estimated = estimates_of(
        model, frame, reference, task, of_content=of_content, progress=progress
    )
    estimates, names = estimated.magnitude, estimated.categories
    listed = np.argsort(-lower_quartile(estimates), kind="stable")[:n_ablated]
    units = reference.units.select(listed)
    with tqdm(total=(1 + len(units)) * len(frame), desc="shared", disable=not progress) as bar:
        changes = unit_changes(
            model, task, units, reference, n_rows, bar.update, of_content=of_content
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
