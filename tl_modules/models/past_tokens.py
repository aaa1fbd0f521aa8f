"""A model's key-value cache, with which a long prompt runs stretch after stretch of its tokens.

A stretch's tokens attend to all tokens before them by the keys and values that the cache keeps, so
that activations are those of one pass over the whole prompt but for rounding. Padding has to be on
the right, as in ``Batch``. LONGER serves long sequences with such a cache (Chai et al. 2025, arXiv
2505.04421; its abstract was read).
"""

from collections.abc import Iterator
from typing import Any

import torch
from jaxtyping import Bool

from tl_modules.errors import ModulesError
from tl_modules.models.hooked_model import HookedModel, model_name

ATTENTIONS = ("full_attention", "sliding_attention")
"""The kinds of layers, by transformers' names, whose cache several tokens at once may continue. A
recurrent layer's cache is made for one token at a time."""

RESCALED = ("dynamic", "longrope")
"""The kinds of rotary embeddings that turn early tokens by an angle that the prompt's length
decides, once it is longer than the model was trained for."""


class HuggingFacePast:
    """The cache of the model that a ``TransformerBridge`` wraps, for one batch."""

    def __init__(self, config: Any) -> None:
        """Make an empty cache.

        Args:
            config: The configuration of the Hugging Face model.
        """
        from transformers import DynamicCache  # seconds to import, so only here

        # Layers of sliding attention keep their window alone.
        self._cache: Any = DynamicCache(config=config)
        self._mask: torch.Tensor | None = None

    @property
    def n_tokens(self) -> int:
        """How many tokens of each row have run, padding among them."""
        return int(self._cache.get_seq_length())

    def options(self, mask: Bool[torch.Tensor, "batch pos"]) -> dict[str, Any]:
        """The arguments of a pass over the next tokens, which the pass then adds.

        Args:
            mask: True at the real tokens among the next ones, on the model's device.
        """
        # transformers asks for the mask of the earlier tokens too.
        self._mask = mask if self._mask is None else torch.cat([self._mask, mask], dim=1)
        return {"attention_mask": self._mask.long(), "past_key_values": self._cache}


class HookedTransformerPast:
    """The cache of a ``HookedTransformer``, for one batch."""

    def __init__(self, model: HookedModel, n_rows: int) -> None:
        """Make an empty cache.

        Args:
            model: The model.
            n_rows: The batch's number of prompts.
        """
        from transformer_lens.cache.key_value_cache import TransformerLensKeyValueCache

        device = getattr(model.cfg, "device", None)
        self._cache = TransformerLensKeyValueCache.init_cache(model.cfg, device, n_rows)

    @property
    def n_tokens(self) -> int:
        """How many tokens of each row have run, padding among them."""
        return self._cache[0].past_keys.shape[1]

    def options(self, mask: Bool[torch.Tensor, "batch pos"]) -> dict[str, Any]:
        """See ``HuggingFacePast``. This cache keeps the mask of the earlier tokens itself."""
        return {"attention_mask": mask.long(), "past_kv_cache": self._cache}


PastTokens = HuggingFacePast | HookedTransformerPast
"""The keys and values of the tokens of a batch that have run."""


def stretches(
    model: HookedModel, shape: tuple[int, int], chunk_tokens: int | None
) -> Iterator[tuple[slice, PastTokens | None]]:
    """Divide a batch's positions into stretches, which the caller runs one after the other.

    Args:
        model: The model.
        shape: The batch's numbers of prompts and of positions.
        chunk_tokens: The positions of a stretch; None for all.

    Yields:
        A stretch's positions, and the cache of its pass; one stretch and no cache if all positions
        fit into it.

    Raises:
        ModulesError: If the model's cache did not keep the tokens of the stretch before.
    """
    n_rows, n_positions = shape
    if chunk_tokens is None or n_positions <= chunk_tokens:
        yield slice(0, n_positions), None
        return
    past = _past_tokens(model, n_rows)
    for start in range(0, n_positions, chunk_tokens):
        if past.n_tokens != start:
            raise ModulesError(
                "chunk_tokens needs a model that keeps the keys and values of earlier tokens; "
                f"{model_name(model)!r} kept {past.n_tokens} of {start}. Leave chunk_tokens out."
            )
        yield slice(start, min(start + chunk_tokens, n_positions)), past


def _past_tokens(model: HookedModel, n_rows: int) -> PastTokens:
    """An empty cache for a batch."""
    config = _hugging_face_config(model)
    return HookedTransformerPast(model, n_rows) if config is None else HuggingFacePast(config)


def check_keeps_past(model: HookedModel, n_tokens: int) -> None:
    """Refuse a model on which stretches could not give the numbers of a whole pass.

    Args:
        model: The model, which is causal.
        n_tokens: The tokens of the longest prompt.

    Raises:
        ModulesError: If the model has no key-value cache that several tokens at once may continue,
            or turns all tokens by an angle that depends on the prompt's length.
    """
    config, cfg = _hugging_face_config(model), model.cfg
    text: Any = None if config is None else config.get_text_config(decoder=True)
    kinds = set(getattr(text, "layer_types", None) or ()) - set(ATTENTIONS)
    longest = float("inf") if text is None else _rescaled_after(text)
    if text is None and getattr(cfg, "use_dynamic_ntk_rope", False):
        longest = getattr(cfg, "train_seq_length", None) or cfg.n_ctx
    reason = None
    if text is None and not _is_hooked_transformer(model):
        reason = "takes no key-value cache"
    elif kinds:
        reason = f"has layers of {', '.join(sorted(kinds))}"
    elif n_tokens > longest:
        reason = "rescales its rotary embeddings by the prompt's length"
    if reason is not None:
        raise ModulesError(
            "chunk_tokens needs a model whose key-value cache gives the numbers of a whole pass; "
            f"{model_name(model)!r} {reason}. Leave chunk_tokens out, or pass a smaller max_tokens."
        )


def past_bytes(model: HookedModel, n_tokens: int) -> int:
    """The memory of a prompt's keys and values.

    It is an upper bound: for layers that all keep all tokens, in float32.
    """
    cfg: Any = model.cfg
    n_heads = getattr(cfg, "n_key_value_heads", None) or getattr(cfg, "n_heads", None) or 1
    d_head = getattr(cfg, "d_head", None) or 1
    return 2 * 4 * n_tokens * (getattr(cfg, "n_layers", None) or 1) * n_heads * d_head


def _hugging_face_config(model: HookedModel) -> Any:
    """The configuration of the Hugging Face model inside a ``TransformerBridge``, if it is one."""
    config = getattr(getattr(model, "original_model", None), "config", None)
    return config if hasattr(config, "get_text_config") else None


def _is_hooked_transformer(model: HookedModel) -> bool:
    """Whether a model, or the one that a ``SplicedModel`` wraps, is a ``HookedTransformer``."""
    kinds = type(getattr(model, "model", model)).__mro__
    return any(kind.__name__ == "HookedTransformer" for kind in kinds)


def _rescaled_after(config: Any) -> float:
    """The number of tokens from which a model's rotary embeddings depend on the length."""
    rope: Any = getattr(config, "rope_parameters", None) or {}
    longest = getattr(config, "max_position_embeddings", None) or float("inf")
    found = float("inf")
    # One description, or one for each kind of layer.
    for each in [rope, *(part for part in rope.values() if isinstance(part, dict))]:
        if each.get("rope_type") in RESCALED:
            original = each.get("original_max_position_embeddings")
            original = original or getattr(config, "original_max_position_embeddings", None)
            found = min(found, float(original or longest))
    return found
