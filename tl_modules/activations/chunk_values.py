"""Prompts as chunks of batches, and a chunk's values.

Chunks do not depend on the batch size, and sums are added prompt by prompt inside a chunk, then
chunk by chunk: the same whatever the batches are, in memory or not.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int

from tl_modules.activations.batch_runner import Room
from tl_modules.activations.matrix import check_finite
from tl_modules.models.batches import Batch, batches

CHUNK_BYTES = 8 * 1024**2
LEAST_PROMPTS = 128
"""A chunk holds 8 MB of 16-bit values, or so many prompts."""
PIECE_PROMPTS = 16
PIECES = 32
"""While a chunk is collected, its prompts are kept in about 32 pieces at most, of 16 prompts at
least: an interrupted run loses one of them at most."""


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


def collected(
    room: Room,
    chunk: Sequence[Batch],
    tell: Callable[[int], object],
    begun: Collected | None = None,
    keep: Callable[[int, Collected], object] | None = None,
) -> Collected:
    """Run a chunk.

    Args:
        room: Runs the batches.
        chunk: The batches.
        tell: Told how many prompts are done, batch by batch.
        begun: The chunk's first batches, if an earlier run collected them: they do not run again.
        keep: Given a piece of the chunk from time to time: its first row, and its values with the
            sums of all rows so far.

    Returns:
        The values: the same, bit for bit, with and without ``begun``.

    Raises:
        ModulesError: If an activation is NaN or infinite.
    """
    n_samples = sum(len(batch.rows) for batch in chunk)
    values = np.empty((n_samples, len(room.units)), dtype=np.float32)
    done, n_tokens, totals = 0, 0, None
    if begun is not None:
        done, n_tokens, totals = len(begun.values), begun.n_tokens, torch.tensor(begun.totals)
        values[:done] = begun.values
    kept = done
    for batch in _from_row(chunk, done):
        for part, found in room.values(batch):
            own = values[done : done + len(part.rows)]
            own[:] = found.values.cpu().numpy()
            check_finite(own, room.units, part.rows.tolist())
            totals = add_in_turn(totals, found.sums)
            n_tokens += int(part.counted.sum())
            done += len(part.rows)
            tell(len(part.rows))
        if keep is not None and n_samples > done >= kept + max(PIECE_PROMPTS, n_samples // PIECES):
            assert totals is not None
            keep(kept, Collected(values[kept:done], _to_numpy(totals), n_tokens))
            kept = done
    assert totals is not None  # a chunk holds a batch
    return Collected(values, _to_numpy(totals), n_tokens)


def _from_row(chunk: Sequence[Batch], first: int) -> Sequence[Batch]:
    """The batches that begin with a row of the chunk, or after it."""
    starts = np.cumsum([0, *(len(batch.rows) for batch in chunk)])
    return chunk[int(np.searchsorted(starts, first)) :]


def _to_numpy(totals: Float[torch.Tensor, " coordinates"]) -> Float[np.ndarray, " coordinates"]:
    """Sums on any device as float64."""
    return totals.cpu().numpy().astype(np.float64)


def add_in_turn(
    totals: Float[torch.Tensor, " coordinates"] | None,
    sums: Float[torch.Tensor, "batch coordinates"],
) -> Float[torch.Tensor, " coordinates"]:
    """Add one sample's sums after the other, on their device, in float64 where it has that."""
    if totals is None:
        totals = torch.zeros(sums.shape[1], dtype=torch.float64)
    dtype = torch.float32 if sums.device.type == "mps" else torch.float64
    totals = totals.to(sums.device, dtype)  # where the sums of the first batch lie
    for row in sums:
        totals += row.to(totals.dtype).to(totals.device)
    return totals
