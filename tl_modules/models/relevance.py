"""Relevance: hooks that make a run's gradients those of a model with constant gates.

Gradients describe an infinitely small change. To ablate a unit is a large one, for which a
normalisation or a gate that is held constant is often the better description. RelP (Rezaei Jafari
et al. 2025, arXiv 2508.21258) therefore takes the rules of layer-wise relevance propagation in
place of gradients. Written as hooks, each rule keeps the value at a hook point and changes what
gradients pass through it.
"""

from collections.abc import Sequence
from functools import reduce
from typing import Any

import torch

from tl_modules.errors import ModulesError
from tl_modules.models.gradients import Taps, differentiable
from tl_modules.models.hooked_model import FwdHooks, HookedModel, HookFn, model_name

_Held = dict[str, torch.Tensor]
"""The factors and inputs of a run whose rules are still to come, by hook point."""


def relevance_hooks(model: HookedModel, read: Sequence[str] = ()) -> FwdHooks:
    """Hooks under which a run's gradients are RelP's coefficients; its values stay the same.

    - The scale of a normalisation is a constant; the centring of a LayerNorm is not.
    - An activation function multiplies its input by a constant, ``act(x) / x``.
    - A gated MLP's product passes half of its gradient to each factor. Without the half, both
      factors would claim the whole product.
    - Attention patterns are constants: gradients pass through the values alone.

    A model without biases then is a linear function of the residual stream, and the sum of
    ``activation * gradient`` over the residual stream is the same number at every layer.

    Args:
        model: The model. Two runs of two tokens test its hook points.
        read: The hook points at which gradients will be computed.

    Returns:
        Hooks for one run at a time. They come before those that read activations.

    Raises:
        ModulesError: If the model lacks a hook point that a rule needs, or does not compute its
            logits from what hooks return there; or if gradients at a hook point to read are lost,
            as those at latents of SAEs on MLP neurons are.
    """
    held: _Held = {}
    hooks: FwdHooks = []
    for name in model.hook_dict:
        if name.endswith(".hook_scale"):
            hooks += _of_norm(model, name.removesuffix("hook_scale"), held)
    for layer in range(int(model.cfg.n_layers)):
        hooks += _of_mlp(model, f"blocks.{layer}.mlp.hook_", held)
        hooks += [(f"blocks.{layer}.attn.hook_{part}", _constant) for part in "qk"]
    # A scale need only be shown, unless it is made a constant.
    shown = {name for name, rule in hooks if name.endswith("scale") and rule is not _constant}
    _check_effective(model, [name for name, _ in hooks if name not in shown])
    _check_effective(model, read, hooks)
    return hooks


def _of_norm(model: HookedModel, path: str, held: _Held) -> FwdHooks:
    """The rule of a normalisation."""
    source, scale, result = (f"{path}hook_{part}" for part in ("in", "scale", "out"))
    if result not in model.hook_dict:  # a HookedTransformer, whose run divides by this value
        return [(scale, _constant)]
    # A TransformerBridge may run the wrapped model's own normalisation, and show its scale only.
    norm: Any = reduce(getattr, path.removesuffix(".").split("."), model)

    def rule(activation: torch.Tensor, hook: object = None) -> torch.Tensor:
        del hook
        values = held.pop(source).float()
        if not norm.uses_rms_norm:
            values = values - values.mean(-1, keepdim=True)
        # OPT's normalisations see tokens without a batch axis at some of their hook points.
        values = values / held.pop(scale).detach().reshape(*values.shape[:-1], 1)
        weight = getattr(norm, "weight", None)
        if weight is not None:
            values = values * (weight.detach() + float(norm.uses_weight_offset))
        return _Substitute.apply(activation, values.reshape(activation.shape).to(activation.dtype))

    return [(source, _holding(held, source)), (scale, _holding(held, scale)), (result, rule)]


def _of_mlp(model: HookedModel, path: str, held: _Held) -> FwdHooks:
    """The rule of an activation function, and of its product with another factor."""
    factors = [f"{path}pre"]
    if f"{path}pre_linear" in model.hook_dict or getattr(model.cfg, "gated_mlp", False):
        factors.append(f"{path}pre_linear")

    def rule(activation: torch.Tensor, hook: object = None) -> torch.Tensor:
        del hook
        product = activation.detach()
        values = torch.zeros_like(product)
        for name in factors:
            factor = held.pop(name)
            rest = torch.where(factor == 0, 0, product / factor.detach())
            values = values + factor * rest / len(factors)
        return _Substitute.apply(activation, values)

    return [*((name, _holding(held, name)) for name in factors), (f"{path}post", rule)]


def _constant(activation: torch.Tensor, hook: object = None) -> torch.Tensor:
    """The rule of a constant: no gradient passes."""
    del hook
    return activation.detach()


def _holding(held: _Held, name: str) -> HookFn:
    """A hook that keeps an activation for a later rule, and changes nothing."""

    def hook_fn(activation: torch.Tensor, hook: object = None) -> None:
        del hook
        held[name] = activation

    return hook_fn


class _Substitute(torch.autograd.Function):
    """The first tensor's value with the second tensor's gradient."""

    @staticmethod
    def forward(ctx: Any, value: torch.Tensor, stand_in: torch.Tensor) -> torch.Tensor:
        del ctx, stand_in
        return value.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[None, torch.Tensor]:
        del ctx
        return None, gradients[0]


def _check_effective(
    model: HookedModel, hook_names: Sequence[str], edits: FwdHooks | None = None
) -> None:
    """Refuse hook points from which no gradient reaches the logits."""
    missing = [name for name in hook_names if name not in model.hook_dict]
    if hook_names and not missing:
        taps = Taps(list(dict.fromkeys(hook_names)))
        tokens = torch.zeros(1, 2, dtype=torch.long, device=getattr(model.cfg, "device", None))
        hooks = [*(edits or []), *taps.fwd_hooks]
        mask = torch.ones_like(tokens)
        try:
            with differentiable():
                logits = model.run_with_hooks(tokens, fwd_hooks=hooks, attention_mask=mask)
                missing = taps.without_effect(logits.float().sum())
        finally:
            taps.release()
    if missing:
        raise ModulesError(
            "estimate='relp' needs hook points that the model computes with; "
            f"{model_name(model)!r} lacks {len(missing)}, {missing[0]!r} first. Use "
            "estimate='gradient' or 'integrated_gradients'."
        )
