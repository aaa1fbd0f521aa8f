"""Any optimizer, limited to a module's weights or kept away from them."""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from jaxtyping import Bool

from tl_modules.errors import ModulesError, check_type
from tl_modules.models.hooked_model import HookedModel
from tl_modules.modules.module import Module
from tl_modules.runtime.arguments import checked
from tl_modules.training.masks import Named, parameter_masks, parameters_of
from tl_modules.units import Units

_Masks = Mapping[str, Bool[torch.Tensor, "..."]]


@checked
@contextmanager
def training_only(
    model: HookedModel, module: Module | Units, optimizer: torch.optim.Optimizer
) -> Iterator[None]:
    """Let an optimizer change nothing but a module's weights inside the ``with``.

    Parameters without a weight of the module's require no gradient there, and the others' gradients
    are 0 outside the module, also for clipping. Weight decay and momentum would move entries whose
    gradient is 0: after each step these have the bits they had before it. The model may be in
    training mode.

    Args:
        model: The model.
        module: The module, or units, of the site ``"mlp"``.
        optimizer: A ``torch.optim`` optimizer of the model's parameters, or of some.

    Returns:
        A context manager. At its end every parameter requires a gradient if it did before.

    Raises:
        ModulesError: If the optimizer is none or has none of the module's weights, or as
            ``parameter_masks`` raises.
    """
    masks, named = parameter_masks(model, module), parameters_of(model)
    _check_optimizer(optimizer, {name: named[name] for name in masks})
    outside = {name: ~mask for name, mask in masks.items()}
    wanted = {id(named[name]) for name in masks}
    required = [(each, each.requires_grad, each.grad) for each in named.values()]
    try:
        for parameter, _, _ in required:
            parameter.requires_grad_(id(parameter) in wanted)
            if id(parameter) not in wanted:
                parameter.grad = None  # so that the optimizer passes it over
        with _protected(named, outside, optimizer):
            yield
    finally:
        for parameter, before, gradient in required:
            parameter.requires_grad_(before)
            if id(parameter) not in wanted:
                parameter.grad = gradient


@checked
@contextmanager
def training_all_but(
    model: HookedModel, module: Module | Units, optimizer: torch.optim.Optimizer
) -> Iterator[None]:
    """Keep an optimizer from changing a module's weights inside the ``with``.

    Their gradients are 0 there, also for clipping, and after each step they have the bits they had
    before it, whatever weight decay and momentum do. The model may be in training mode.

    Args:
        model: The model.
        module: The module, or units, of the site ``"mlp"``.
        optimizer: A ``torch.optim`` optimizer of the model's parameters, or of some.

    Returns:
        A context manager.

    Raises:
        ModulesError: If the optimizer is none or has none of the model's parameters, or as
            ``parameter_masks`` raises.
    """
    masks, named = parameter_masks(model, module), parameters_of(model)
    _check_optimizer(optimizer, named)
    with _protected(named, masks, optimizer):
        yield


@contextmanager
def _protected(named: Named, masks: _Masks, optimizer: torch.optim.Optimizer) -> Iterator[None]:
    """Keep the masked entries as they are through every step."""
    held: dict[str, torch.Tensor] = {}

    def before(*_: Any) -> None:
        for name, mask in masks.items():
            parameter = named[name]
            held[name] = parameter.detach().clone()
            if parameter.grad is not None:  # what was there before the hooks
                parameter.grad.masked_fill_(mask, 0)

    def after(*_: Any) -> None:
        with torch.no_grad():
            for name, values in held.items():
                named[name].copy_(torch.where(masks[name], values, named[name]))
        held.clear()

    with ExitStack() as handles:
        for name, mask in masks.items():
            if named[name].requires_grad:
                handle = named[name].register_hook(_zeroing(mask))
                handles.callback(handle.remove)
        handles.callback(optimizer.register_step_pre_hook(before).remove)
        handles.callback(optimizer.register_step_post_hook(after).remove)
        yield


def _zeroing(mask: torch.Tensor) -> Any:
    def hook_fn(gradient: torch.Tensor) -> torch.Tensor:
        return gradient.masked_fill(mask, 0)

    return hook_fn


def _check_optimizer(optimizer: torch.optim.Optimizer, named: Named) -> None:
    """Refuse an optimizer of something else: it would train nothing, or nothing protected."""
    check_type(
        optimizer,
        torch.optim.Optimizer,
        "optimizer should be a torch.optim optimizer",
        "Make one of model.parameters().",
    )
    theirs = {id(each) for group in optimizer.param_groups for each in group["params"]}
    if not theirs & {id(parameter) for parameter in named.values()}:
        raise ModulesError(
            "The optimizer should have the model's parameters; it has none of "
            f"{len(named)} that count here. Make it of model.parameters()."
        )
