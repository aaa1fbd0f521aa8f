"""How many prompts a forward pass may have, so that it fits into free memory."""

from typing import Any, Literal

import psutil
import torch

from tl_modules.errors import check_at_least
from tl_modules.models.hooked_model import HookedModel

BatchSize = int | Literal["auto"]
"""Prompts per forward pass. ``"auto"``: as many as fit into half of the free memory, at most 16 on
a CPU, which more of them do not make faster, and 512 on a GPU."""

ON_CPU, ON_GPU = 16, 512


def check_batch_size(batch_size: BatchSize) -> None:
    """Refuse a batch size below 1.

    Raises:
        ModulesError: If it is below 1.
    """
    if batch_size != "auto":
        check_at_least("batch_size", batch_size, 1)


def batch_size_of(
    model: HookedModel,
    batch_size: BatchSize,
    n_tokens: int,
    *,
    logits: bool = True,
    fits: bool = True,
) -> int:
    """The number of prompts of a forward pass.

    Args:
        model: The model.
        batch_size: A number, or ``"auto"``.
        n_tokens: The tokens of the longest prompt.
        logits: Whether the logits are computed; they need most of the memory.
        fits: Whether ``"auto"`` depends on free memory; otherwise it is the largest number for a
            CPU, and 128 for a GPU.

    Returns:
        A number; for ``"auto"`` at least 1, even if a single prompt may not fit.
    """
    if batch_size != "auto":
        return batch_size
    device = torch.device(getattr(model.cfg, "device", None) or "cpu")
    is_cuda = device.type == "cuda"
    if not fits:
        return ON_GPU // 4 if is_cuda else ON_CPU
    free = torch.cuda.mem_get_info(device)[0] if is_cuda else psutil.virtual_memory().available
    per_prompt = max(n_tokens, 1) * _bytes_per_token(model, logits=logits)
    return max(1, min(ON_GPU if is_cuda else ON_CPU, int(free / 2 / per_prompt)))


def _bytes_per_token(model: HookedModel, *, logits: bool) -> int:
    """The memory that a token takes in a pass, roughly, and not less than that.

    Logits exist in the model's dtype, as float32 and once more while a loss is computed. A layer's
    activations exist a few times over, and so do the residual stream and the queries, keys and
    values.
    """
    cfg: Any = model.cfg
    d_model = getattr(cfg, "d_model", None) or 1
    d_mlp = getattr(cfg, "d_mlp", None) or 4 * d_model
    d_vocab = (getattr(cfg, "d_vocab", None) or 1) if logits else 0
    return 12 * d_vocab + 4 * (4 * d_mlp + 8 * d_model)
