"""What each unit does to the loss or to the logits at each token, from gradients."""

import torch

from tl_modules.activations.reading import Reading
from tl_modules.models.batches import Batch
from tl_modules.models.gradients import each_gradient, summed_losses
from tl_modules.models.hooked_model import HookedModel, checked_flat
from tl_modules.models.logit_probes import logit_probes, top_logits
from tl_modules.units import Units

_ByHook = dict[str, torch.Tensor]


def unit_effects(
    model: HookedModel, batch: Batch, units: Units, reading: Reading
) -> tuple[_ByHook, _ByHook]:
    """Run a batch forward, and backward once or once per probe.

    Args:
        model: The model.
        batch: The prompts.
        units: The units to read.
        reading: Its ``weight`` says what is computed; not ``"activation"``.

    Returns:
        By hook point, activations ``[batch, pos, coordinates]`` and one value per unit and token,
        ``[batch, pos, units]``; both float32.
    """
    hooks = list(zip(units.hook_names, units.widths, units.spans, strict=True))
    values: _ByHook = {}
    if reading.weight == "attribution":
        measures = [summed_losses(batch.tokens, batch.mask, batch.starts)]
    elif reading.weight == "top_logit":
        measures = [top_logits(batch.mask)]
    else:
        measures = logit_probes(batch.mask, reading.probe_seed)

    def add(activations: _ByHook, gradients: _ByHook) -> None:
        for name, width, span in hooks:
            activation, gradient = (
                checked_flat(of[name], width * span, name).float()
                for of in (activations, gradients)
            )
            # An ablation sets all coordinates of a unit at once, so their first-order effects add
            # up before the magnitude is taken.
            product = (activation * gradient).unflatten(-1, (width, span)).sum(-1)
            if len(measures) > 1:
                product = values.get(name, 0) + product.square() / len(measures)
            values[name] = product

    activations = each_gradient(measures, model, batch.tokens, batch.mask, units.hook_names, add)
    activations = {
        name: checked_flat(activations[name], width * span, name).float()
        for name, width, span in hooks
    }
    if len(measures) == 1:
        return activations, values
    effects = {name: squares.sqrt() for name, squares in values.items()}
    if reading.weight == "activation_effect":
        for name, width, span in hooks:
            sizes = activations[name].unflatten(-1, (width, span)).norm(dim=-1)
            effects[name] = (sizes * effects[name]).sqrt()
    return activations, effects
