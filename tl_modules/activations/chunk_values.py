"""Prompts as chunks of batches, and the values of a chunk.

Chunks do not depend on the batch size. Sums are added prompt by prompt inside a chunk, then chunk
by chunk. So the sums are the same for every batch size, in memory and in a store.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int

from tl_modules.activations.batch_runner import BatchRunner
from tl_modules.activations.token_sums import TokenSums
from tl_modules.activations.value_checks import check_finite
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
) -> list[list[Batch]]:
    """Divide the prompts into chunks, and each chunk into batches of similar length.

    The longest prompts run first: if memory runs out, it does so at the beginning.

    Args:
        token_lists: Each prompt's tokens.
        counted: Which tokens of each prompt count.
        batch_size: Largest number of prompts in a batch. No batch spans two chunks.
        n_units: Number of units, which decides how many prompts a chunk holds.
    """
    size = chunk_size(n_units)
    order = np.argsort([-len(tokens) for tokens in token_lists], kind="stable")
    return [
        list(batches(token_lists, batch_size, counted, order[start : start + size]))
        for start in range(0, len(order), size)
    ]


def chunk_rows(chunk: Sequence[Batch]) -> Int[np.ndarray, " samples"]:
    """The row numbers of a chunk's prompts, in the order in which they run."""
    return np.concatenate([batch.rows for batch in chunk])


def chunk_lengths(chunk: Sequence[Batch]) -> Int[np.ndarray, " samples"]:
    """How many tokens of each prompt of a chunk count."""
    return np.concatenate([batch.counted.sum(1).numpy() for batch in chunk])


def collect_chunk(
    runner: BatchRunner,
    chunk: Sequence[Batch],
    on_batch: Callable[[int], object],
    begun: Collected | None = None,
    keep: Callable[[int, Collected], object] | None = None,
) -> Collected:
    """Run a chunk.

    Args:
        runner: Runs the batches.
        chunk: The batches.
        on_batch: Called with the number of prompts of each batch that has run.
        begun: The chunk's first rows, if an earlier run collected them; they do not run again.
        keep: Called for each piece of the chunk, with the piece's first row and its values. The
            piece's sums are over all rows of the chunk so far.

    Returns:
        The values; they are the same, bit for bit, with and without ``begun``.

    Raises:
        ModulesError: If an activation is NaN or infinite.
    """
    n_samples = sum(len(batch.rows) for batch in chunk)
    values = np.empty((n_samples, len(runner.units)), dtype=np.float32)
    done, n_tokens, totals = 0, (0, 0), None
    if begun is not None:
        # The earlier run's sums are continued in the same order, so the result has the same bits.
        done, n_tokens = len(begun.values), begun.totals.n_tokens
        totals = torch.tensor(begun.totals.sums)
        values[:done] = begun.values
    kept = done
    for batch in _from_row(chunk, done):
        for part, reduced in runner.values(batch):
            part_values = values[done : done + len(part.rows)]
            part_values[:] = reduced.values.cpu().numpy()
            # Checked batch by batch, so that a bad prompt is named before hours of work are done.
            check_finite(part_values, runner.units, part.rows.tolist())
            totals = add_in_turn(totals, reduced.sums)
            n_counted, n_content = int(part.counted.sum()), int(reduced.n_content.sum())
            n_tokens = (n_tokens[0] + n_counted, n_tokens[1] + n_content)
            done += len(part.rows)
            on_batch(len(part.rows))
        # The last piece is not kept: the chunk itself is about to be written.
        if keep is not None and n_samples > done >= kept + max(PIECE_PROMPTS, n_samples // PIECES):
            assert totals is not None
            keep(kept, Collected(values[kept:done], TokenSums(_to_numpy(totals), n_tokens)))
            kept = done
    assert totals is not None  # every chunk holds at least one batch
    return Collected(values, TokenSums(_to_numpy(totals), n_tokens))


def _from_row(chunk: Sequence[Batch], first: int) -> Sequence[Batch]:
    """The chunk's batches from a row on, with which a batch begins."""
    starts = np.cumsum([0, *(len(batch.rows) for batch in chunk)])
    return chunk[int(np.searchsorted(starts, first)) :]


def _to_numpy(
    totals: Float[torch.Tensor, "2 coordinates"],
) -> Float[np.ndarray, "2 coordinates"]:
    """Sums from any device as float64."""
    return totals.cpu().numpy().astype(np.float64)


def add_in_turn(
    totals: Float[torch.Tensor, "2 coordinates"] | None,
    sums: Float[torch.Tensor, "batch 2 coordinates"],
) -> Float[torch.Tensor, "2 coordinates"]:
    """Add the samples' sums to the totals one after another, on the samples' device.

    A single ``sum`` over the batch would round differently for each batch size. The totals are
    float64, or float32 on Apple's GPUs, which have no float64.
    """
    if totals is None:
        totals = torch.zeros(sums.shape[1:], dtype=torch.float64)
    dtype = torch.float32 if sums.device.type == "mps" else torch.float64
    totals = totals.to(sums.device, dtype)
    for row in sums:
        totals += row.to(totals.dtype).to(totals.device)
    return totals
