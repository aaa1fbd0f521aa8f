"""One batch through a model: every unit's value on each prompt."""

from collections.abc import Callable, Mapping
from dataclasses import replace

import torch

from tl_modules.activations.aggregate import Reduced, reduced, signed_sums, without_overflow
from tl_modules.activations.reading import Reading
from tl_modules.models.batches import Batch
from tl_modules.models.gradients import loss_gradients
from tl_modules.models.hooked_model import HookedModel, checked_flat, run_hooks_only
from tl_modules.units import Units


def batch_values(model: HookedModel, batch: Batch, units: Units, reading: Reading) -> Reduced:
    """Run a batch, and reduce each prompt's tokens as the reading says.

    Args:
        model: The model.
        batch: The prompts.
        units: What to read.
        reading: How.

    Returns:
        A value a prompt and unit, and the signed sums of all coordinates. Nothing waits for a GPU
        before the whole batch is through.
    """
    # Once, not at each hook point.
    batch = replace(batch, counted=batch.counted.to(getattr(model.cfg, "device", None)))
    reduce = _activations if reading.weight == "activation" else _attributions
    return without_overflow(
        lambda wide: joined(reduce(model, batch, units, reading.aggregate, wide), units)
    )


def joined(found: Mapping[str, Reduced], units: Units) -> Reduced:
    """Several hook points' values side by side, in the units' order."""
    parts = [found[name] for name in units.hook_names]
    device = parts[0].values.device  # the layers of one model may lie on several
    return Reduced(
        torch.cat([part.values.to(device) for part in parts], dim=1),
        torch.cat([part.sums.to(device) for part in parts], dim=1),
    )


def _activations(
    model: HookedModel, batch: Batch, units: Units, aggregate: str, wide: bool
) -> dict[str, Reduced]:
    """Each sample's aggregated |activation|, from a run that ends at the last hook point."""
    found: dict[str, Reduced] = {}

    def reader(name: str, width: int, span: int) -> Callable[[torch.Tensor], None]:
        def read(activation: torch.Tensor) -> None:
            activation = checked_flat(activation.detach(), width * span, name)
            found[name] = reduced(activation, span, batch.counted, aggregate, wide=wide)

        return read

    hooks = zip(units.hook_names, units.widths, units.spans, strict=True)
    readers = {name: reader(name, width, span) for name, width, span in hooks}
    run_hooks_only(model, batch.tokens, batch.mask, readers)
    return found


def _attributions(
    model: HookedModel, batch: Batch, units: Units, aggregate: str, wide: bool
) -> dict[str, Reduced]:
    """Each sample's aggregated |activation x gradient of its summed loss|."""
    found: dict[str, Reduced] = {}
    activations, gradients = loss_gradients(model, batch.tokens, batch.mask, units.hook_names)
    for name, width, span in zip(units.hook_names, units.widths, units.spans, strict=True):
        activation, gradient = (
            checked_flat(of[name], width * span, name).float() for of in (activations, gradients)
        )
        # A unit's coordinates are silenced together: their products add up before the magnitude.
        products = (activation * gradient).unflatten(-1, (width, span)).sum(-1)
        values = reduced(products, 1, batch.counted, aggregate, wide=wide).values
        # Mean ablation's values stay activations.
        found[name] = Reduced(values, signed_sums(activation, batch.counted, wide=wide))
    return found
