"""Prompts as chunks of batches, and a chunk's values.

Chunks do not depend on the batch size, and sums are added prompt by prompt inside a chunk, then
chunk by chunk: the same whatever the batches are, in memory or not.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int

from tl_modules.activations.matrix import check_finite
from tl_modules.activations.room import Room
from tl_modules.tokens import Batch, batches

CHUNK_BYTES = 8 * 1024**2
LEAST_PROMPTS = 128
"""A chunk holds 8 MB of 16-bit values, or so many prompts: what a killed run loses at most."""


@dataclass(frozen=True, eq=False)
class Collected:
    """A chunk's values."""

    values: Float[np.ndarray, "_samples _units"]
    """One a prompt and unit, in the order of the chunk."""

    totals: Float[np.ndarray, " _coordinates"]
    """The signed sums over all tokens that count, float64."""

    n_tokens: int
    """How many those are."""


def chunk_size(n_units: int) -> int:
    """How many prompts make a chunk."""
    return max(LEAST_PROMPTS, CHUNK_BYTES // (2 * n_units))


def chunks_of_batches(
    token_lists: Sequence[Int[torch.Tensor, " _pos"]],
    counted: Sequence[Bool[torch.Tensor, " _pos"]],
    batch_size: int,
    n_units: int,
) -> list[list[Batch]]:
    """The prompts in batches of similar length, longest first, a chunk's worth at a time.

    Args:
        token_lists: Each prompt's tokens.
        counted: Which of them count.
        batch_size: Prompts of a batch at most; a batch ends with its chunk.
        n_units: Units, which decide how many prompts a chunk holds.
    """
    size = chunk_size(n_units)
    order = np.argsort([-len(tokens) for tokens in token_lists], kind="stable")
    return [
        list(batches(token_lists, batch_size, counted, order[start : start + size]))
        for start in range(0, len(order), size)
    ]


def collected(room: Room, chunk: Sequence[Batch], tell: Callable[[int], object]) -> Collected:
    """Run a chunk.

    Args:
        room: What runs its batches.
        chunk: Them.
        tell: Told how many prompts are done, batch by batch.

    Returns:
        The values.

    Raises:
        ModulesError: If an activation is NaN or infinite.
    """
    n_samples = sum(len(batch.rows) for batch in chunk)
    values = np.empty((n_samples, len(room.units)), dtype=np.float32)
    done, n_tokens, totals = 0, 0, None
    for batch in chunk:
        for part, found in room.values(batch):
            own = values[done : done + len(part.rows)]
            own[:] = found.values.cpu().numpy()
            check_finite(own, room.units, part.rows.tolist())
            totals = add_in_turn(totals, found.sums)
            n_tokens += int(part.counted.sum())
            done += len(part.rows)
            tell(len(part.rows))
    assert totals is not None  # a chunk holds a batch
    return Collected(values, totals.cpu().numpy().astype(np.float64), n_tokens)


def add_in_turn(
    totals: Float[torch.Tensor, " coordinates"] | None,
    sums: Float[torch.Tensor, "batch coordinates"],
) -> Float[torch.Tensor, " coordinates"]:
    """Add one sample's sums after the other, on their device, in float64 where it has that."""
    if totals is None:
        dtype = torch.float32 if sums.device.type == "mps" else torch.float64
        totals = torch.zeros(sums.shape[1], dtype=dtype, device=sums.device)
    for row in sums:
        totals += row.to(totals.dtype).to(totals.device)
    return totals
