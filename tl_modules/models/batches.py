"""Prompts of similar length in padded batches."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Int

from tl_modules.errors import check_at_least


@dataclass(frozen=True)
class Batch:
    """Prompts of similar length, padded on the right."""

    rows: Int[np.ndarray, " batch"]
    """Which prompts they are."""

    tokens: Int[torch.Tensor, "batch pos"]
    """Token ids."""

    mask: Bool[torch.Tensor, "batch pos"]
    """True where a token is real."""

    counted: Bool[torch.Tensor, "batch pos"]
    """True where a token counts: all real ones, or some of them."""


def batches(
    token_lists: Sequence[Int[torch.Tensor, " _pos"]],
    batch_size: int,
    counted: Sequence[Bool[torch.Tensor, " _pos"]] | None = None,
    chosen: Int[np.ndarray, " _chosen"] | None = None,
) -> Iterator[Batch]:
    """Batches of prompts of similar length, longest first.

    Padding goes on the right, where causal attention keeps it from reaching any real token; the
    longest batch comes first so that memory runs out at once or never.

    Args:
        token_lists: Each prompt's tokens.
        batch_size: How many prompts at a time.
        counted: Which tokens of each prompt count; all by default.
        chosen: Which prompts; all by default.

    Raises:
        ModulesError: If ``batch_size`` is below 1.
    """
    check_at_least("batch_size", batch_size, 1)
    order = np.arange(len(token_lists)) if chosen is None else chosen
    lengths = np.array([len(token_lists[row]) for row in order.tolist()])
    longest_first = np.argsort(-lengths, kind="stable")
    order, lengths = order[longest_first], lengths[longest_first]
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        lists = [token_lists[row] for row in rows]
        tokens = torch.nn.utils.rnn.pad_sequence(lists, batch_first=True)
        positions = torch.arange(tokens.shape[1])
        mask = positions[None, :] < torch.from_numpy(lengths[start : start + batch_size])[:, None]
        count = mask
        if counted is not None:
            count = torch.nn.utils.rnn.pad_sequence(
                [counted[row] for row in rows], batch_first=True
            )
        yield Batch(rows, tokens, mask, count)
