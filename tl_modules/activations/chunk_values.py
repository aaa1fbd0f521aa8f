"""Prompts as chunks of batches, which do not depend on the batch size; and a chunk's values."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int

from tl_modules.activations.token_sums import TokenSums
from tl_modules.models.batches import Batch, batches

CHUNK_BYTES = 8 * 1024**2
LEAST_PROMPTS = 128
"""A chunk holds 8 MB of 16-bit values, and at least this number of prompts."""
PIECE_PROMPTS = 16
PIECES = 32
"""While a chunk is collected, its prompts are kept in at most about 32 pieces of at least 16
prompts. An interrupted run loses at most one piece."""


@dataclass(frozen=True, eq=False)
class Collected:
    """The values of a chunk, or of its first rows."""

    values: Float[np.ndarray, "_samples _units"]
    """One value per prompt and unit, in the order of the chunk."""

    totals: TokenSums
    """The sums over these prompts' tokens."""


def chunk_size(n_units: int) -> int:
    """How many prompts a chunk holds."""
    return max(LEAST_PROMPTS, CHUNK_BYTES // (2 * n_units))


def chunks_of_batches(
    token_lists: Sequence[Int[torch.Tensor, " _pos"]],
    counted: Sequence[Bool[torch.Tensor, " _pos"]],
    batch_size: int,
    n_units: int,
    starts: Int[np.ndarray, " prompts"] | None = None,
) -> list[list[Batch]]:
    """Divide the prompts into chunks, and each chunk into batches of similar length.

    The longest prompts run first: if memory runs out, it does so at the beginning.

    Args:
        token_lists: Each prompt's tokens.
        counted: Which tokens of each prompt count.
        batch_size: Largest number of prompts in a batch. No batch spans two chunks.
        n_units: Number of units, which decides how many prompts a chunk holds.
        starts: The position of each prompt's first token whose loss counts; None if all do.
    """
    size = chunk_size(n_units)
    order = np.argsort([-len(tokens) for tokens in token_lists], kind="stable")
    return [
        list(batches(token_lists, batch_size, counted, order[first : first + size], starts))
        for first in range(0, len(order), size)
    ]


def chunk_rows(chunk: Sequence[Batch]) -> Int[np.ndarray, " samples"]:
    """The row numbers of a chunk's prompts, in the order in which they run."""
    return np.concatenate([batch.rows for batch in chunk])


def chunk_lengths(chunk: Sequence[Batch]) -> Int[np.ndarray, " samples"]:
    """How many tokens of each prompt of a chunk count."""
    return np.concatenate([batch.counted.sum(1).numpy() for batch in chunk])
