"""The hook interface that TransformerLens models share, and the shapes of their activations.

Nothing here imports TransformerLens: a ``TransformerBridge``, a ``HookedTransformer`` and any
object with the same six names are hooked models.
"""

from collections.abc import Callable, Mapping
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Shaped

from tl_modules.errors import ModulesError, check_type, shown

HookFn = Callable[..., torch.Tensor | None]
"""A forward hook, ``fn(activation, hook)``; its return value replaces the activation."""

FwdHooks = list[tuple[str, HookFn]]
"""Names of hook points with their functions, for ``run_with_hooks(fwd_hooks=...)``."""


@runtime_checkable
class HookedModel(Protocol):
    """The interface of a model with TransformerLens' hook points: the names this package uses."""

    @property
    def cfg(self) -> Any:
        """The configuration: ``n_layers``, ``d_mlp``, ``device``, ``model_name``."""
        ...

    @property
    def hook_dict(self) -> Mapping[str, Any]:
        """The hook points by name."""
        ...

    def run_with_cache(self, *args: Any, **kwargs: Any) -> Any:
        """Run the model, and return the output with the activation cache."""
        ...

    def run_with_hooks(self, *args: Any, **kwargs: Any) -> Any:
        """Run the model with hooks that are removed afterwards."""
        ...

    def hooks(self, *args: Any, **kwargs: Any) -> Any:
        """Attach hooks inside a ``with``."""
        ...

    def to_tokens(self, *args: Any, **kwargs: Any) -> Any:
        """Tokenise a string, ``[1, pos]``; ``truncate=False`` does not cut at the context."""
        ...


_NEEDED = ("cfg", "hook_dict", "run_with_cache", "run_with_hooks", "hooks", "to_tokens")


def check_model(model: Any) -> None:
    """Raise unless an object is a hooked model.

    Raises:
        ModulesError: If one of the names that ``HookedModel`` lists is missing.
    """
    missing = [name for name in _NEEDED if not hasattr(model, name)]
    if missing:
        raise ModulesError(
            f"model should be a TransformerBridge or HookedTransformer; got "
            f"{type(model).__name__}, which lacks {', '.join(missing)}. Boot the model with "
            "TransformerLens first, e.g. TransformerBridge.boot_transformers(name)."
        )


def is_hooked(model: Any) -> bool:
    """Whether an object is a hooked model, by the rule of ``check_model``."""
    return all(hasattr(model, name) for name in _NEEDED)


def check_causal(
    model: HookedModel, what: str, remedy: str = "collect plain activations (weight='activation')"
) -> None:
    """Raise unless a model predicts each token from the previous tokens alone.

    BERT and other encoders see the tokens that they predict. The decoder of an encoder-decoder
    model predicts another text than its encoder reads. A diffusion model predicts masked tokens.

    Args:
        model: The model.
        what: The function that needs a causal model, for the message.
        remedy: What to do with other models, for the message.

    Raises:
        ModulesError: If the model's configuration, or TransformerLens' adapter, says that it is not
            causal.
    """
    check_model(model)
    adapter, original = (getattr(model, name, None) for name in ("adapter", "original_model"))
    direction = getattr(model.cfg, "attention_dir", None) or "causal"
    reason = None
    if direction != "causal":
        reason = f"whose attention is {direction}"
    elif getattr(getattr(original, "config", None), "is_encoder_decoder", False):
        reason = "whose decoder predicts another text than the encoder reads"
    elif not getattr(adapter, "supports_causal_loss", True):
        reason = "to which TransformerLens gives no causal loss"
    if reason is not None:
        raise ModulesError(
            f"{what} needs a causal model, which predicts each token from those before it; got "
            f"{model_name(model)!r}, {reason}. Use a causal language model, or {remedy}."
        )


def model_name(model: HookedModel) -> str:
    """Return the name in the model's configuration, or ``"unknown"``."""
    return str(getattr(model.cfg, "model_name", None) or "unknown")


def roots(model: HookedModel) -> dict[str, Any]:
    """Return the objects that hold a model's parts, by name.

    Args:
        model: The model.

    Returns:
        The model itself, under ``""``; the model that a ``TransformerBridge`` wraps, because the
        bridge does not list all its parts; and the SAEs of a ``SplicedModel``, under the names of
        ``saes_of``.
    """
    wrapped = getattr(model, "original_model", None)
    inner = {} if wrapped is None else {"original_model": wrapped}
    return {"": model, **inner, **saes_of(model)}


def saes_of(model: HookedModel) -> dict[str, Any]:
    """Return the SAEs of a ``SplicedModel`` by their latents' hook points; none for others."""
    saes = {name: getattr(point, "sae", None) for name, point in model.hook_dict.items()}
    return {name: sae for name, sae in saes.items() if sae is not None}


def parts_of(model: HookedModel) -> dict[str, Any]:
    """Return every hook point and ``torch.nn.Module`` of a model, once, by its first name.

    Args:
        model: The model.

    Returns:
        The hook points, then the modules.
    """
    parts: dict[int, tuple[str, Any]] = {}
    for name, point in model.hook_dict.items():
        parts.setdefault(id(point), (name, point))
    for root, whole in roots(model).items():
        for name, part in getattr(whole, "named_modules", dict)():
            parts.setdefault(id(part), (".".join(filter(None, (root, name))), part))
    return dict(parts.values())


def cache_entry(cache: Any, name: str, what: str, remedy: str) -> torch.Tensor:
    """Look up a cache's activation at a hook point.

    Args:
        cache: The cache that ``run_with_cache`` returned, or a mapping of tensors.
        name: The hook point's name, as given.
        what: The cache's name in messages.
        remedy: The remedy in messages.

    Raises:
        ModulesError: If the object is no cache, or has no tensor under the name.
    """
    try:
        activation = cache[name]
    except (LookupError, TypeError) as error:
        is_cache = isinstance(error, KeyError)
        raise ModulesError(
            f"{what} should hold {name!r}; it {'does not' if is_cache else 'is ' + shown(cache)}. "
            f"{remedy}"
        ) from error
    check_type(activation, torch.Tensor, f"{what} should hold a tensor at {name!r}", remedy)
    return activation


def flat(activation: torch.Tensor, width: int) -> torch.Tensor:
    """Flatten the heads of an activation into one last axis of coordinates, as a view.

    Args:
        activation: An activation of shape ``[..., width]``, or of shape
            ``[batch, pos, heads, d_head]`` with ``heads * d_head == width``.
        width: The number of coordinates.

    Returns:
        The activation, ``[..., width]``; unchanged if its shape is neither.

    >>> flat(torch.zeros(2, 5, 3, 4), 12).shape
    torch.Size([2, 5, 12])
    """
    if activation.ndim > 3 and activation.shape[-2] * activation.shape[-1] == width:
        return activation.flatten(-2)
    return activation


def checked_flat(activation: torch.Tensor, width: int, name: str) -> torch.Tensor:
    """Flatten the heads of a batch's activation, and validate its shape.

    Raises:
        ModulesError: If the result is not ``[batch, pos, width]``.
    """
    values = flat(activation, width)
    if values.ndim != 3 or values.shape[-1] != width:
        raise ModulesError(
            f"The activation at {name!r} should have a batch and a position axis and {width} "
            f"values per token, as the model's cfg says; it has shape {tuple(activation.shape)}. "
            "Add caches of the Collector's own model, with their batch axis "
            "(remove_batch_dim=False); if a model's layers are wider or narrower than its cfg "
            "says, choose another site."
        )
    return values


_OF_PAIRS = ("pattern", "scores")
"""Words in the names of hook points that hold a number per pair of positions."""


def token_width(activation: Shaped[torch.Tensor, "..."], name: str, n_tokens: int) -> int:
    """Count the values per token at a hook point.

    Args:
        activation: A batch's activation at the hook point.
        name: The hook point's name.
        n_tokens: The number of positions of the batch.

    Raises:
        ModulesError: If the activation is not one vector, or one vector per head, per token.
    """
    of_pairs = activation.ndim == 4 and any(word in name for word in _OF_PAIRS)
    if activation.ndim not in (3, 4) or of_pairs or activation.shape[1] != n_tokens:
        raise ModulesError(
            f"The activation at {name!r} should have a batch and a position axis, then a token's "
            f"values; it has shape {tuple(activation.shape)}. 'blocks.0.hook_resid_post' is usual."
        )
    return activation[0, 0].numel()
