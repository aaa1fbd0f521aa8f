"""What the package asks of a model: the hook interface that TransformerLens models share.

Nothing here imports TransformerLens: a ``TransformerBridge``, a ``HookedTransformer`` and any
object with the same six names will do.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Int, Shaped

from tl_modules.errors import ModulesError, check_type, shown

HookFn = Callable[..., torch.Tensor | None]
"""A forward hook: ``fn(activation, hook)``; what it returns replaces the activation."""

FwdHooks = list[tuple[str, HookFn]]
"""Hook point names with their functions, as ``run_with_hooks(fwd_hooks=...)`` takes them."""


@runtime_checkable
class HookedModel(Protocol):
    """A model with hook points, as TransformerLens defines them."""

    @property
    def cfg(self) -> Any:
        """Its configuration: ``n_layers``, ``d_mlp``, ``device``, ``model_name``."""
        ...

    @property
    def hook_dict(self) -> Mapping[str, Any]:
        """Its hook points by name."""
        ...

    def run_with_cache(self, *args: Any, **kwargs: Any) -> Any:
        """Run, and return the output with the activation cache."""
        ...

    def run_with_hooks(self, *args: Any, **kwargs: Any) -> Any:
        """Run with hooks that are gone afterwards."""
        ...

    def hooks(self, *args: Any, **kwargs: Any) -> Any:
        """Context manager: hooks that are gone when it ends."""
        ...

    def to_tokens(self, *args: Any, **kwargs: Any) -> Any:
        """Tokens of a string, shape ``[1, pos]``; all of them with ``truncate=False``."""
        ...


_NEEDED = ("cfg", "hook_dict", "run_with_cache", "run_with_hooks", "hooks", "to_tokens")


def check_model(model: Any) -> None:
    """Refuse an object that is no hooked model.

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
    """Whether an object is a hooked model, as ``check_model`` has it."""
    return all(hasattr(model, name) for name in _NEEDED)


def check_causal(model: HookedModel, what: str) -> None:
    """Refuse a model that does not predict each token from those before it alone.

    BERT and other encoders see the tokens that they would predict; an encoder-decoder model
    predicts another text than the one it reads; a diffusion model predicts masked tokens.

    Args:
        model: The model.
        what: What needs a causal model.

    Raises:
        ModulesError: If its configuration, or TransformerLens' adapter of it, says that it is none.
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
            f"{model_name(model)!r}, {reason}. Use a causal language model, or collect plain "
            "activations (weight='activation')."
        )


def model_name(model: HookedModel) -> str:
    """The name in the model's configuration, or ``"unknown"``."""
    return str(getattr(model.cfg, "model_name", None) or "unknown")


def roots(model: HookedModel) -> dict[str, Any]:
    """What a model is made of, by name.

    Args:
        model: The model.

    Returns:
        The model itself, under ``""``; the model that a ``TransformerBridge`` wraps, some of whose
        parts the bridge doesn't list; and the SAEs of a ``SplicedModel``, as ``saes_of`` names
        them.
    """
    wrapped = getattr(model, "original_model", None)
    inner = {} if wrapped is None else {"original_model": wrapped}
    return {"": model, **inner, **saes_of(model)}


def saes_of(model: HookedModel) -> dict[str, Any]:
    """The SAEs of a ``SplicedModel``, by their latents' hook points; of another model none."""
    saes = {name: getattr(point, "sae", None) for name, point in model.hook_dict.items()}
    return {name: sae for name, sae in saes.items() if sae is not None}


def parts_of(model: HookedModel) -> dict[str, Any]:
    """Every hook point and ``torch.nn.Module`` of a model, by its first name; each once.

    Args:
        model: The model.

    Returns:
        The hook points first.
    """
    found: dict[int, tuple[str, Any]] = {}
    for name, point in model.hook_dict.items():
        found.setdefault(id(point), (name, point))
    for root, whole in roots(model).items():
        for name, part in getattr(whole, "named_modules", dict)():
            found.setdefault(id(part), (".".join(filter(None, (root, name))), part))
    return dict(found.values())


def cache_entry(cache: Any, name: str, what: str, remedy: str) -> torch.Tensor:
    """A cache's activation at a hook point.

    Args:
        cache: What ``run_with_cache`` returned, or a mapping of tensors.
        name: The hook point, by the name that was asked for.
        what: What messages call the cache.
        remedy: What to do where it is not there.

    Raises:
        ModulesError: If it is no cache, or has no tensor there.
    """
    try:
        found = cache[name]
    except (LookupError, TypeError) as error:
        is_cache = isinstance(error, KeyError)
        raise ModulesError(
            f"{what} should hold {name!r}; it {'does not' if is_cache else 'is ' + shown(cache)}. "
            f"{remedy}"
        ) from error
    check_type(found, torch.Tensor, f"{what} should hold a tensor at {name!r}", remedy)
    return found


def flat(activation: torch.Tensor, width: int) -> torch.Tensor:
    """An activation with its coordinates on one last axis, as a view.

    Args:
        activation: Of shape ``[..., width]``, or ``[batch, pos, heads, d_head]`` where the product
            of the last two is that.
        width: How many coordinates there are.

    Returns:
        The activation, ``[..., width]``; as it is where neither shape fits.

    >>> flat(torch.zeros(2, 5, 3, 4), 12).shape
    torch.Size([2, 5, 12])
    """
    if activation.ndim > 3 and activation.shape[-2] * activation.shape[-1] == width:
        return activation.flatten(-2)
    return activation


def checked_flat(activation: torch.Tensor, width: int, name: str) -> torch.Tensor:
    """The same of a whole batch's activation.

    Raises:
        ModulesError: If it is not ``[batch, pos, width]``.
    """
    values = flat(activation, width)
    if values.ndim != 3 or values.shape[-1] != width:
        raise ModulesError(
            f"The activation at {name!r} should have a batch and a position axis and {width} "
            f"values a token, as the model's cfg says; it has shape {tuple(activation.shape)}. Add "
            "caches of the Collector's own model, with their batch axis (remove_batch_dim=False); "
            "where a model's layers are wider or narrower than its cfg says, choose another site."
        )
    return values


def forward(
    model: HookedModel,
    tokens: Int[torch.Tensor, "batch pos"],
    mask: Bool[torch.Tensor, "batch pos"] | None,
    fwd_hooks: FwdHooks,
    return_type: str | None = "logits",
) -> Any:
    """Run a padded batch under hooks, without gradients.

    Args:
        model: The model.
        tokens: Token ids, padded.
        mask: True where a token is real; None leaves padding to the model.
        fwd_hooks: Hooks for this run only.
        return_type: As the model's own ``forward`` takes it.

    Returns:
        What the model returns for ``return_type``.
    """
    device = getattr(model.cfg, "device", None)
    options = {}
    if mask is not None:
        # Also without padding: left to itself, a model may take a real token for padding.
        options["attention_mask"] = mask.long().to(device)
    with torch.inference_mode():
        return model.run_with_hooks(
            tokens.to(device), return_type=return_type, fwd_hooks=fwd_hooks, **options
        )


class _Enough(Exception):
    """Raised in the last hook that a run is for."""


def run_hooks_only(
    model: HookedModel,
    tokens: Int[torch.Tensor, "batch pos"],
    mask: Bool[torch.Tensor, "batch pos"],
    readers: Mapping[str, Callable[[torch.Tensor], None]],
) -> None:
    """Run a batch only as far as the last of some hook points, reading each activation once.

    The run ends inside the last hook, so that neither the rest of that layer nor the logits (a
    fifth of a small model's work) are computed. Unlike ``stop_at_layer`` this reaches the last
    layer's MLP and works alike on every model.

    Args:
        model: The model.
        tokens: Token ids, padded.
        mask: True where a token is real.
        readers: What to do with the activation of each hook point, by its name.

    Raises:
        ModulesError: If a hook point never fires in the run.
    """
    waiting = set(readers)

    def reading(name: str) -> HookFn:
        def hook_fn(activation: torch.Tensor, hook: Any = None) -> None:
            del hook  # its name may be an alias of ours
            readers[name](activation)
            waiting.discard(name)
            if not waiting:
                raise _Enough

        return hook_fn

    try:
        forward(model, tokens, mask, [(name, reading(name)) for name in readers], None)
    except _Enough:
        return
    raise ModulesError(
        f"Hook points {sorted(waiting)} never fired in a forward pass of {model_name(model)!r}: "
        "nothing can be read there. Choose units at hook points that this model runs."
    )


def hook_order(model: HookedModel, names: Iterable[str]) -> list[str]:
    """Some hook points in the order in which a forward pass, of one token, comes by.

    Args:
        model: The model.
        names: The hook points' names.

    Returns:
        The names.

    Raises:
        ModulesError: If the model has no such hook point, or one never fires.
    """
    wanted = list(names)
    unknown = [name for name in wanted if name not in model.hook_dict]
    if unknown:
        raise ModulesError(
            f"Hook points should be those of {model_name(model)!r}; it has none named {unknown}. "
            "'blocks.0.hook_resid_post' is usual."
        )
    fired: list[str] = []

    def reading(name: str) -> Callable[[torch.Tensor], None]:
        return lambda activation: fired.append(name)

    token = torch.zeros(1, 1, dtype=torch.long)
    run_hooks_only(model, token, token == 0, {name: reading(name) for name in wanted})
    return fired


_OF_PAIRS = ("pattern", "scores")
"""In names of hook points that hold a number for each two positions."""


def token_width(activation: Shaped[torch.Tensor, "..."], name: str, n_tokens: int) -> int:
    """How many values a token has at a hook point.

    Args:
        activation: What a batch has there.
        name: The hook point's name.
        n_tokens: How many positions the batch has.

    Raises:
        ModulesError: If the activation is no vector, or no heads' vectors, a token.
    """
    of_pairs = activation.ndim == 4 and any(word in name for word in _OF_PAIRS)
    if activation.ndim not in (3, 4) or of_pairs or activation.shape[1] != n_tokens:
        raise ModulesError(
            f"The activation at {name!r} should have a batch and a position axis, then a token's "
            f"values; it has shape {tuple(activation.shape)}. 'blocks.0.hook_resid_post' is usual."
        )
    return activation[0, 0].numel()
