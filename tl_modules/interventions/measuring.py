"""Checks of the model before a measurement: eval mode, and no forgotten edits."""

import functools
import inspect
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import torch

from tl_modules.errors import ModulesError
from tl_modules.interventions.attachments import attached
from tl_modules.models.hooked_model import HookedModel, is_hooked, model_name, parts_of
from tl_modules.runtime.call_warnings import warn_once, warns_once

_P = ParamSpec("_P")
_R = TypeVar("_R")

_LIBRARIES = ("accelerate", "torch", "transformer_lens", "transformers")
"""Libraries that hook parts of a model for its own work: pruning, offloading, captured outputs."""


def measures(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """Make a public function refuse a model in training mode, and warn of attached edits.

    Both happen before the function runs. A call issues each kind of warning once, even if the
    function calls others that measure (see ``warns_once``).

    Args:
        function: A function with a parameter ``model``, which may be None.

    Returns:
        The function.
    """
    signature = inspect.signature(function)

    @warns_once
    @functools.wraps(function)
    def measured(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        try:
            model: Any = signature.bind(*args, **kwargs).arguments.get("model")
        except TypeError:  # the call itself raises it, with the function's name
            return function(*args, **kwargs)
        # The function itself refuses anything but a hooked model.
        if is_hooked(model):
            check_measurable(model)
            _warn_of_edits(model)
        return function(*args, **kwargs)

    return measured


def check_measurable(model: HookedModel) -> None:
    """Refuse a model that is in training mode, wholly or in part: dropout makes noise.

    A part counts if its mode changes what it computes. A ``TransformerBridge`` counts as the model
    that it wraps: its own flag changes nothing.

    Args:
        model: The model.

    Raises:
        ModulesError: If it is in training mode.
    """
    wrapped = getattr(model, "original_model", None)
    what = repr(model_name(model))
    if not getattr(model if wrapped is None else wrapped, "training", False):
        noisy = (name for name, part in parts_of(model).items() if _is_noisy(part))
        found = next(noisy, None)
        if found is None:
            return
        what = f"the part {found!r} of {what}"
    raise ModulesError(
        f"The model should be in eval mode; {what} is in training mode, where dropout makes each "
        "run different. Call model.eval() first."
    )


def check_unhooked(model: HookedModel) -> None:
    """Refuse a model with forward hooks that are not its own.

    The hooks that PyTorch, transformers, accelerate and TransformerLens put on a model's parts
    belong to the model.

    Args:
        model: The model.

    Raises:
        ModulesError: If it has any.
    """
    hooked = [name for name, part in parts_of(model).items() if _foreign_hooks(part)]
    if hooked:
        shown = ", ".join(map(repr, hooked[:3])) + (", ..." if len(hooked) > 3 else "")
        raise ModulesError(
            f"store=... needs a model without hooks, which another run could not tell from it; "
            f"this one has hooks at {len(hooked)} places: {shown}. Remove them "
            "(tl_modules.detach_all(model), model.reset_hooks(), the end of a with), or leave "
            "store out."
        )


def _warn_of_edits(model: HookedModel) -> None:
    """Say that attached edits are part of what is measured, unless a ``with`` says so already."""
    edits = [edit for edit in attached(model) if not edit.in_with]
    if edits:
        n_more = len(edits) - 1
        more, verb, them = (f" and {n_more} more", "are", "them") if n_more else ("", "is", "it")
        warn_once(
            "attached edits",
            f"{edits[0]}{more} {verb} attached to {model_name(model)!r} and part of what is "
            f"measured. Call tl_modules.detach_all(model) to remove {them}; with "
            "module.ablated(model): measures under an intervention without this warning.",
        )


def _is_noisy(part: Any) -> bool:
    """Whether a part is in training mode and computes something else there."""
    if not getattr(part, "training", False):
        return False
    if isinstance(part, torch.nn.modules.dropout._DropoutNd):
        return part.p > 0
    if isinstance(part, torch.nn.modules.batchnorm._NormBase):
        return part.track_running_stats
    # Models also drop by a rate of their own: attention_dropout, layerdrop, router_jitter_noise.
    rates = [value for name, value in vars(part).items() if "drop" in name or "jitter" in name]
    rates = [rate for rate in rates if isinstance(rate, int | float) and rate is not True]
    return isinstance(part, torch.nn.RReLU) or any(rate > 0 for rate in rates)


def _foreign_hooks(part: Any) -> list[Any]:
    """The forward hooks of a part that are not the model's own."""
    kinds = ("_forward_hooks", "_forward_pre_hooks")
    hooks = [hook for kind in kinds for hook in getattr(part, kind, {}).values()]
    if hasattr(part, "fwd_hooks"):  # a hook point: TransformerLens wraps the user's functions
        return hooks
    return [hook for hook in hooks if _library(hook) not in _LIBRARIES]


def _library(hook: Any) -> str:
    """The package that a hook comes from."""
    while isinstance(hook, functools.partial):
        hook = hook.func
    return str(getattr(hook, "__module__", "")).partition(".")[0]
