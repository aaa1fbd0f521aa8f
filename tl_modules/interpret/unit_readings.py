"""What single units do on prompts: their strongest tokens, and where their effects come from."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from tqdm.auto import tqdm

from tl_modules.errors import ModulesError
from tl_modules.models.batch_sizes import BatchSize, batch_size_for
from tl_modules.models.batches import Batch, batches
from tl_modules.models.content_tokens import content_masks
from tl_modules.models.gradients import loss_gradients
from tl_modules.models.hooked_model import HookedModel, checked_flat
from tl_modules.models.losses import n_predicted
from tl_modules.units import Units


@dataclass(frozen=True, eq=False)
class UnitReadings:
    """What some units do on each prompt. The first axis is the sign of the activations.

    Entry 0 is of tokens where the activation is at or above 0, entry 1 of those where it is below.
    Special tokens and attention sinks are left out.
    """

    effects: Float[np.ndarray, "2 prompts units"]
    """The estimated effect of mean-ablating the unit at these tokens alone, in nats per token."""

    largest: Float[np.ndarray, "2 prompts units"]
    """The activation of the largest size, with its sign; 0 if no token has this sign."""

    positions: Int[np.ndarray, "2 prompts units"]
    """The token of that activation."""


def unit_readings(
    model: HookedModel,
    units: Units,
    means: Float[np.ndarray, " units"],
    token_lists: Sequence[Int[torch.Tensor, " _pos"]],
    batch_size: BatchSize,
    *,
    progress: bool,
) -> UnitReadings:
    """Run prompts forwards and backwards, and reduce them to a few numbers per prompt and unit.

    Args:
        model: The model.
        units: Units of one coordinate each.
        means: What mean ablation puts in the place of each unit's activation.
        token_lists: The prompts' tokens, two or more each.
        batch_size: Prompts in a pass; see ``describe_units``.
        progress: Show a progress bar.

    Returns:
        The readings.

    Raises:
        ModulesError: If an activation or a gradient is not finite.
    """
    shape = 2, len(token_lists), len(units)
    found = UnitReadings(np.zeros(shape), np.zeros(shape), np.zeros(shape, dtype=np.int64))
    batch_size = batch_size_for(model, batch_size, token_lists, gradients=True)
    counted = content_masks(model, token_lists, batch_size)
    by_hook = [(units.hook_names[hook], units.widths[hook], at) for hook, at in units.by_hook()]
    names = [name for name, _, _ in by_hook]
    with tqdm(total=len(token_lists), desc="units", unit="prompt", disable=not progress) as bar:
        for batch in batches(token_lists, batch_size, counted):
            activations, slopes = loss_gradients(model, batch.tokens, batch.mask, names)
            for name, width, at in by_hook:
                columns = torch.from_numpy(units.index[at]).long()
                values, gradients = (
                    checked_flat(each[name], width, name)[..., columns.to(each[name].device)]
                    .detach()
                    .float()
                    for each in (activations, slopes)
                )
                _reduce(found, batch, at, values, gradients, torch.from_numpy(means[at]))
            bar.update(len(batch.rows))
    if not (np.isfinite(found.effects).all() and np.isfinite(found.largest).all()):
        raise ModulesError(
            "Activations and gradients should be finite; some are not on these prompts. Run the "
            "model in a wider dtype (float32)."
        )
    return found


def _reduce(
    found: UnitReadings,
    batch: Batch,
    at: Int[np.ndarray, " chosen"],
    values: Float[torch.Tensor, "batch pos chosen"],
    gradients: Float[torch.Tensor, "batch pos chosen"],
    means: Float[torch.Tensor, " chosen"],
) -> None:
    """Enter a batch's readings at one hook point."""
    counts = n_predicted(batch.mask).to(values.device)[:, None]
    # Gradients are of the summed loss, effects of the mean.
    effects = (means.to(values) - values) * gradients / counts[..., None]
    # Padding may hold NaN in some models.
    counted = batch.counted.to(values.device)[..., None]
    is_negative = values < 0
    places = np.ix_(batch.rows, at)
    for side, of_side in enumerate((counted & ~is_negative, counted & is_negative)):
        found.effects[side][places] = effects.masked_fill(~of_side, 0).sum(1).cpu().numpy()
        sizes, positions = values.abs().masked_fill(~of_side, 0).max(1)
        found.largest[side][places] = (-sizes if side else sizes).cpu().numpy()
        found.positions[side][places] = positions.cpu().numpy()
