"""Limit any optimizer to a module's weights, or keep it from changing them."""

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
    """Let an optimizer change only a module's weights inside the ``with``, to train the module.

    Parameters without weights of the module do not require a gradient inside the ``with``. Other
    parameters' gradients are 0 outside the module, and gradient clipping sees these zeros. Weight
    decay and momentum move entries even if their gradient is 0, so the entries outside the module
    are restored bit for bit after each step. The model may be in training mode.

    Args:
        model: The model.
        module: The module, or units, of the site ``"mlp"``.
        optimizer: A ``torch.optim`` optimizer of all or some of the model's parameters.

    Returns:
        A context manager, which restores each parameter's ``requires_grad`` at its end.

    Raises:
        ModulesError: If ``optimizer`` is no optimizer or has none of the module's weights, or as
            ``parameter_masks`` raises.
    """
    masks, named = parameter_masks(model, module), parameters_of(model)
    _check_optimizer(optimizer, {name: named[name] for name in masks})
    # Everything but the module is protected, also in parameters that hold both.
    outside = {name: ~mask for name, mask in masks.items()}
    wanted = {id(named[name]) for name in masks}
    required = [
        (parameter, parameter.requires_grad, parameter.grad) for parameter in named.values()
    ]
    try:
        for parameter, _, _ in required:
            parameter.requires_grad_(id(parameter) in wanted)
            if id(parameter) not in wanted:
                parameter.grad = None  # optimizers skip parameters without a gradient
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
    """Keep an optimizer from changing a module's weights inside the ``with``, to protect them.

    The module's gradients are 0, and gradient clipping sees these zeros. After each step the
    module's weights are restored bit for bit, because weight decay and momentum move them even if
    their gradient is 0. The model may be in training mode.

    Args:
        model: The model.
        module: The module, or units, of the site ``"mlp"``.
        optimizer: A ``torch.optim`` optimizer of all or some of the model's parameters.

    Returns:
        A context manager.

    Raises:
        ModulesError: If ``optimizer`` is no optimizer or has none of the model's parameters, or as
            ``parameter_masks`` raises.
    """
    masks, named = parameter_masks(model, module), parameters_of(model)
    _check_optimizer(optimizer, named)
    with _protected(named, masks, optimizer):
        yield


@contextmanager
def _protected(named: Named, masks: _Masks, optimizer: torch.optim.Optimizer) -> Iterator[None]:
    """Restore the masked entries after every step of the optimizer."""
    held: dict[str, torch.Tensor] = {}

    def before(*_: Any) -> None:
        for name, mask in masks.items():
            parameter = named[name]
            # A copy per step: other code may change the weights between two steps.
            held[name] = parameter.detach().clone()
            # A gradient from before the ``with`` did not pass the hooks that zero it.
            if parameter.grad is not None:
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
    """Raise for an optimizer without the parameters: it would train or protect nothing."""
    check_type(
        optimizer,
        torch.optim.Optimizer,
        "optimizer should be a torch.optim optimizer",
        "Pass one such as torch.optim.AdamW(model.parameters()).",
    )
    in_optimizer = {id(each) for group in optimizer.param_groups for each in group["params"]}
    if not in_optimizer & {id(parameter) for parameter in named.values()}:
        raise ModulesError(
            f"optimizer should have some of the {len(named)} parameters to train or to protect; "
            "it has none of them. Make it from model.parameters()."
        )
