"""Runs of a hooked model, without gradients: a whole pass, or a pass up to some hook points."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from jaxtyping import Bool, Int

from tl_modules.errors import ModulesError
from tl_modules.models.batches import uploaded
from tl_modules.models.hooked_model import FwdHooks, HookedModel, HookFn, model_name
from tl_modules.models.past_tokens import PastTokens


def forward(
    model: HookedModel,
    tokens: Int[torch.Tensor, "batch pos"],
    mask: Bool[torch.Tensor, "batch pos"] | None,
    fwd_hooks: FwdHooks,
    return_type: str | None = "logits",
    past: PastTokens | None = None,
) -> Any:
    """Run a padded batch under hooks, without gradients.

    Args:
        model: The model.
        tokens: Padded token ids; a caller of several passes may upload them and the mask once.
        mask: True at real tokens; None leaves padding to the model.
        fwd_hooks: Hooks for this run only.
        return_type: The argument of the model's own ``forward``.
        past: The tokens before these, if a long prompt runs in stretches; needs a mask.

    Returns:
        The model's output for ``return_type``.
    """
    device = getattr(model.cfg, "device", None)
    options: dict[str, Any] = {}
    if mask is not None:
        # Also without padding: left to itself, a model may take a real token for padding.
        mask = uploaded(mask, device)
        options = {"attention_mask": mask.long()} if past is None else past.options(mask)
    with torch.inference_mode():
        return model.run_with_hooks(
            uploaded(tokens, device), return_type=return_type, fwd_hooks=fwd_hooks, **options
        )


class _Enough(Exception):
    """Raised inside the last hook to end a run early."""


def run_hooks_only(
    model: HookedModel,
    tokens: Int[torch.Tensor, "batch pos"],
    mask: Bool[torch.Tensor, "batch pos"],
    readers: Mapping[str, Callable[[torch.Tensor], None]],
    past: PastTokens | None = None,
) -> None:
    """Run a batch up to the last of some hook points, and read each activation once.

    The run ends inside the last hook, so the rest of the layer and the logits (a fifth of a small
    model's work) are not computed. Unlike ``stop_at_layer``, this reaches the last layer's MLP, and
    works in the same way on every model.

    Args:
        model: The model.
        tokens: Padded token ids.
        mask: True at real tokens.
        readers: A function per hook point, which gets the hook point's activation.
        past: The tokens before these, if a long prompt runs in stretches.

    Raises:
        ModulesError: If a hook point never fires in the run.
    """
    waiting = set(readers)

    def reading(name: str) -> HookFn:
        def hook_fn(activation: torch.Tensor, hook: Any = None) -> None:
            del hook  # its name may be an alias of the name asked for
            readers[name](activation)
            waiting.discard(name)
            if not waiting:
                raise _Enough

        return hook_fn

    try:
        forward(model, tokens, mask, [(name, reading(name)) for name in readers], None, past)
    except _Enough:
        return
    raise ModulesError(
        f"Hook points should fire in a forward pass; in {model_name(model)!r}, {sorted(waiting)} "
        "never fired. Choose units at hook points that this model runs."
    )


def hook_order(model: HookedModel, names: Iterable[str]) -> list[str]:
    """Sort hook points in the order in which a forward pass reaches them.

    Args:
        model: The model, which runs on one token.
        names: The hook points' names.

    Returns:
        The names in order.

    Raises:
        ModulesError: If the model lacks a hook point, or a hook point never fires.
    """
    wanted = list(names)
    unknown = [name for name in wanted if name not in model.hook_dict]
    if unknown:
        raise ModulesError(
            f"Hook points should belong to {model_name(model)!r}; it has none named {unknown}. "
            "'blocks.0.hook_resid_post' is usual."
        )
    fired: list[str] = []

    def reading(name: str) -> Callable[[torch.Tensor], None]:
        return lambda activation: fired.append(name)

    token = torch.zeros(1, 1, dtype=torch.long)
    run_hooks_only(model, token, token == 0, {name: reading(name) for name in wanted})
    return fired
