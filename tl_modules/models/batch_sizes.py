"""How many prompts a forward pass may have, so that it fits into free memory."""

from collections.abc import Sequence
from typing import Any, Literal

import torch
from jaxtyping import Int

from tl_modules.errors import check_at_least
from tl_modules.models.hooked_model import HookedModel
from tl_modules.models.past_tokens import past_bytes
from tl_modules.runtime.memory import free_memory

BatchSize = int | Literal["auto"]
"""Prompts per forward pass. ``"auto"``: as many as fit into half of the free memory, but at most 16
on a CPU, because larger batches are not faster there, and at most 512 on a GPU."""

ON_CPU, ON_GPU = 16, 512
WRITTEN_ON_CPU = 64
"""The most texts that are written at once on a CPU: after the first pass each is one token long."""


def check_batch_size(batch_size: BatchSize) -> None:
    """Refuse a batch size below 1.

    Raises:
        ModulesError: If it is below 1.
    """
    if batch_size != "auto":
        check_at_least("batch_size", batch_size, 1)


def largest_batch(model: HookedModel) -> int:
    """The largest number of prompts that ``"auto"`` takes on a model's device."""
    return ON_GPU if _device(model).type == "cuda" else ON_CPU


def batch_size_of(
    model: HookedModel,
    batch_size: BatchSize,
    n_tokens: int,
    *,
    logits: bool = True,
    gradients: bool = False,
    writes: bool = False,
    chunk_tokens: int | None = None,
) -> int:
    """The number of prompts of a pass.

    Args:
        model: The model.
        batch_size: A number, or ``"auto"``.
        n_tokens: The tokens of the longest prompt.
        logits: Whether the logits are computed; they need most of the memory.
        gradients: Whether a backward pass follows, which needs all layers' activations.
        writes: Whether the model continues the prompts; ``n_tokens`` is then with the new ones.
        chunk_tokens: How many of a prompt's tokens run at once; None for all.

    Returns:
        A number; for ``"auto"`` at least 1, even if a single prompt may not fit.
    """
    if batch_size != "auto":
        return batch_size
    layers = (getattr(model.cfg, "n_layers", None) or 1) if gradients else 1
    n_bytes = layers * _layer_bytes(model, n_tokens)
    if logits:
        # In the model's dtype, as float32, and once more while a loss is computed.
        n_bytes += 12 * (getattr(model.cfg, "d_vocab", None) or 1)
    at_once = n_tokens if chunk_tokens is None else min(n_tokens, chunk_tokens)
    n_bytes *= max(at_once, 1)
    if at_once < n_tokens:
        n_bytes += past_bytes(model, n_tokens)
    fits = free_memory(_device(model)) / 2 / n_bytes
    most = max(largest_batch(model), WRITTEN_ON_CPU) if writes else largest_batch(model)
    return max(1, min(most, int(fits)))


def batch_size_for(
    model: HookedModel,
    batch_size: BatchSize,
    token_lists: Sequence[Int[torch.Tensor, " _pos"]],
    *,
    logits: bool = True,
    gradients: bool = False,
    chunk_tokens: int | None = None,
) -> int:
    """The number of prompts of a pass, from their tokens.

    Args:
        model: The model.
        batch_size: A number, or ``"auto"``.
        token_lists: The tokens of each prompt. The longest prompt counts.
        logits: See ``batch_size_of``.
        gradients: See ``batch_size_of``.
        chunk_tokens: See ``batch_size_of``.

    Returns:
        What ``batch_size_of`` returns.

    Raises:
        ModulesError: If ``batch_size`` is below 1.
    """
    check_batch_size(batch_size)
    longest = max(map(len, token_lists), default=1)
    options = {"logits": logits, "gradients": gradients}
    return batch_size_of(model, batch_size, longest, **options, chunk_tokens=chunk_tokens)


def batch_size_for_texts(
    model: HookedModel, texts: Sequence[str], max_tokens: int | None, *, gradients: bool = False
) -> int | None:
    """The number of prompts of a pass, from texts that are not tokenised.

    Args:
        model: The model.
        texts: The texts. A text has at most as many tokens as bytes, and two special ones.
        max_tokens: Where texts are cut.
        gradients: See ``batch_size_of``.

    Returns:
        The largest number that ``"auto"`` takes, if it fits for any tokenizer; otherwise None.
    """
    n_tokens = max(len(text.encode(errors="replace")) for text in texts) + 2
    n_tokens = n_tokens if max_tokens is None else min(n_tokens, max_tokens)
    found = batch_size_of(model, "auto", n_tokens, gradients=gradients)
    return found if found == largest_batch(model) else None


def _device(model: HookedModel) -> torch.device:
    return torch.device(getattr(model.cfg, "device", None) or "cpu")


def _layer_bytes(model: HookedModel, n_tokens: int) -> int:
    """The memory that a token takes in a layer, roughly.

    The neurons' activations exist a few times over, and so do the residual stream and the queries,
    keys and values. Attention scores are counted as if all of them were kept.
    """
    cfg: Any = model.cfg
    d_model = getattr(cfg, "d_model", None) or 1
    d_mlp = getattr(cfg, "d_mlp", None) or 4 * d_model
    n_heads = getattr(cfg, "n_heads", None) or 1
    return 4 * (4 * d_mlp + 8 * d_model + 3 * n_heads * n_tokens)
