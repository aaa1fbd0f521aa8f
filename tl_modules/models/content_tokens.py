"""Which tokens of a prompt are its content: neither special tokens nor attention sinks.

An attention sink is a token whose residual stream is far larger than the others' (massive
activations; Sun et al. 2024, arXiv 2402.17762). Attention rests on it, it says nothing of the
prompt, and some neurons are a thousand times larger at it than elsewhere. In most models it is the
first token, whatever that token is; in some it is a delimiter too.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float, Int

from tl_modules.models.batches import batches
from tl_modules.models.hooked_model import HookedModel
from tl_modules.models.runs import run_hooks_only
from tl_modules.models.tokens import named_ids

SINK_FACTOR = 10
"""A token is a sink if its residual stream's norm in the middle layer is above this many times the
median of the prompt's other tokens. In SmolLM2-135M the first token's norm is 134 to 180 times the
median, in Gemma 3 270M 12 to 14 times; of 2,800 other tokens none exceeds 1.7 times."""


def textless_ids(tokenizer: Any) -> set[int]:
    """Return the ids of the special tokens that stand for no text of the prompt.

    These are BOS, EOS, padding and the chat template's tokens; without UNK and MASK, which stand
    for a part of the text. A ``tokenizer`` of None has no special tokens.
    """
    special = set(getattr(tokenizer, "all_special_ids", ()))
    special -= named_ids(tokenizer, "unk", "mask")
    return special | named_ids(tokenizer, "bos", "cls", "eos", "sep")


def ordinary_tokens(
    model: HookedModel,
    tokens: Int[torch.Tensor, "batch pos"],
    mask: Bool[torch.Tensor, "batch pos"],
) -> Bool[torch.Tensor, "batch pos"]:
    """Mark the real tokens that are neither special nor the first of their prompt, on the CPU."""
    special = torch.tensor(sorted(textless_ids(getattr(model, "tokenizer", None))))
    mask, tokens = mask.cpu(), tokens.cpu()
    return mask & (mask.cumsum(1) > 1) & ~torch.isin(tokens, special.long())


class SinkFinder:
    """Reads the residual stream of a run in the middle layer, and finds the attention sinks."""

    def __init__(self, model: HookedModel) -> None:
        """Prepare for one run, which may be in stretches.

        A model without this layer's ``hook_resid_post`` has no sinks.
        """
        n_layers = getattr(model.cfg, "n_layers", None) or 0
        name = f"blocks.{n_layers // 2}.hook_resid_post"
        self._norms: list[Float[torch.Tensor, "batch _pos"]] = []
        self.readers: Mapping[str, Callable[[torch.Tensor], None]] = (
            {name: self._read} if name in model.hook_dict else {}
        )
        """Readers for ``run_hooks_only``."""

    def _read(self, activation: torch.Tensor) -> None:
        self._norms.append(activation.detach().float().norm(dim=-1))

    def sinks(self, ordinary: Bool[torch.Tensor, "batch pos"]) -> Bool[torch.Tensor, "batch pos"]:
        """Mark the sinks among the run's ``ordinary_tokens``, after the run.

        The result is on the device of ``ordinary``: on the model's device nothing is waited for.
        """
        if not self._norms:
            return torch.zeros_like(ordinary)
        norms = torch.cat(self._norms, dim=1).to(ordinary.device)
        # The lower median. On a GPU torch's own has no deterministic implementation.
        sizes = norms.masked_fill(~ordinary, torch.nan)
        last = (~sizes.isnan()).sum(1, keepdim=True) - 1
        median = sizes.sort(1).values.gather(1, last.clamp(min=0) // 2)
        return ordinary & (norms > SINK_FACTOR * median)


def content_tokens(
    model: HookedModel,
    tokens: Int[torch.Tensor, "batch pos"],
    mask: Bool[torch.Tensor, "batch pos"],
) -> Bool[torch.Tensor, "batch pos"]:
    """Mark the content of each prompt, from a run up to the middle layer.

    Args:
        model: The model, whose tokenizer names the special tokens.
        tokens: Padded token ids.
        mask: True at real tokens.

    Returns:
        True at the ordinary tokens (see ``ordinary_tokens``) whose residual stream is at most
        ``SINK_FACTOR`` times as large as the ordinary tokens' median; on the CPU.
    """
    ordinary = ordinary_tokens(model, tokens, mask)
    finder = SinkFinder(model)
    if finder.readers:
        run_hooks_only(model, tokens, mask, finder.readers)
    return ordinary & ~finder.sinks(ordinary)


def content_masks(
    model: HookedModel, token_lists: Sequence[Int[torch.Tensor, " _pos"]], batch_size: int
) -> list[Bool[torch.Tensor, " _pos"]]:
    """Mark the content of each of many prompts; see ``content_tokens``."""
    masks = [torch.empty(0, dtype=torch.bool)] * len(token_lists)
    for batch in batches(token_lists, batch_size):
        found = content_tokens(model, batch.tokens, batch.mask)
        for row, content in zip(batch.rows.tolist(), found, strict=True):
            masks[row] = content[: len(token_lists[row])].clone()
    return masks
