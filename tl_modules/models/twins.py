"""A copy of a model that has learned nothing: a control for every finding about the model."""

import copy
from typing import Any

import torch

from tl_modules.errors import ModulesError, check_seed
from tl_modules.models.hooked_model import HookedModel, check_model
from tl_modules.runtime.arguments import checked


@checked
def untrained_twin(model: HookedModel, *, seed: int = 0) -> HookedModel:
    """Copy a model, and draw its weights anew.

    The twin has the model's architecture, tokenizer and hook points. The entries of each weight are
    normal random numbers of the weight's own mean and standard deviation, so that activations keep
    a usual size. A method that finds as much in the twin as in the model finds nothing that the
    model has learned (Méloux et al. 2025, "The Dead Salmons of AI Interpretability", arXiv
    2512.18792).

    Args:
        model: The model; it stays unchanged. SAEs that ``with_saes`` added keep their weights.
        seed: Seeds the weights.

    Returns:
        The twin, on the model's devices.

    Raises:
        ModulesError: If the model has hooks, or no weights of floating point numbers, for example
            since it is quantised.

    Example::

        twin = tlm.untrained_twin(model)
        twin_modules = tlm.discover(tlm.collect(twin, prompts), n_modules=7)
        tlm.module_effects(twin, twin_modules, held_out)
    """
    check_model(model)
    check_seed(seed)
    hooked = [name for name, point in model.hook_dict.items() if _hooks(point)]
    if hooked:
        raise ModulesError(
            f"model should have no hooks, which the twin would share; {hooked[0]!r} has some. "
            "Remove them: model.reset_hooks(including_permanent=True)."
        )
    twin: Any = copy.deepcopy(model)
    # A weight that two layers share is listed once. Biases and scales are weights too.
    weights = [weight for weight in twin.parameters() if weight.is_floating_point()]
    if not weights:
        raise ModulesError(
            "model should have weights of floating point numbers; it has none. Load it without "
            "quantisation."
        )
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in weights:
            # Drawn on the CPU, so that every device gets the same twin.
            drawn = torch.randn(weight.shape, generator=generator).to(weight.device)
            values = weight.float()
            weight.copy_(values.mean() + values.std(correction=0) * drawn)
    return twin


def _hooks(point: Any) -> list[Any]:
    """The hooks on a hook point; torch keeps them by these names."""
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return [hook for kind in kinds for hook in getattr(point, kind, {}).values()]
