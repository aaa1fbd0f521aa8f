"""Running chunks of batches, and gathering each chunk's values.

On a CPU, sums are added prompt by prompt inside a chunk, then chunk by chunk. So the sums are the
same for every batch size, in memory and in a store. A GPU's batches are queued one ahead, from one
chunk to the next, so that the device never waits for Python to handle the results.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from jaxtyping import Float

from tl_modules.activations.aggregate import Reduced
from tl_modules.activations.batch_runner import BatchRunner
from tl_modules.activations.chunk_values import PIECE_PROMPTS, PIECES, Collected
from tl_modules.activations.device_values import Queued
from tl_modules.activations.host_copies import host_memory
from tl_modules.activations.token_sums import TokenSums
from tl_modules.activations.value_checks import check_finite
from tl_modules.models.batches import Batch

_Item = TypeVar("_Item")


@dataclass(frozen=True, eq=False)
class ChunkJob:
    """A chunk to collect."""

    batches: Sequence[Batch]
    """The chunk's batches."""

    begun: Collected | None = None
    """The chunk's first rows, if an earlier run collected them; they do not run again."""

    keep: Callable[[int, Collected], object] | None = None
    """Called for each piece of the chunk, with the piece's first row and its values. The piece's
    sums are over all rows of the chunk so far."""


def collect_chunks(
    runner: BatchRunner, jobs: Iterable[ChunkJob], on_batch: Callable[[int], object]
) -> Iterator[Collected]:
    """Run chunks, and yield each one's values, in order.

    Args:
        runner: Runs the batches.
        jobs: The chunks. On a CPU each is asked for when the one before was yielded.
        on_batch: Called with the number of prompts of each batch that has run.

    Yields:
        A chunk's values; they are the same, bit for bit, with and without ``begun``.

    Raises:
        ModulesError: If an activation is NaN or infinite.
    """
    for chunk, part, found in _ahead(_started(runner, jobs), runner.n_ahead):
        chunk.add(part, found)
        on_batch(len(part.rows))
        if chunk.is_whole:
            yield chunk.collected()
        del chunk  # so that on a CPU two chunks are never in memory at once


def _started(
    runner: BatchRunner, jobs: Iterable[ChunkJob]
) -> Iterator[tuple["_Chunk", Batch, Reduced | Queued]]:
    """Run or queue all batches, and yield the parts that ran with their chunk."""
    for job in jobs:
        chunk = _Chunk(runner, job)
        first = chunk.n_done
        for batch in _from_row(job.batches, first):
            for part, found in runner.values(batch):
                chunk.place(first, part, found)
                first += len(part.rows)
                yield chunk, part, found
                del found
        del chunk


def _ahead(items: Iterable[_Item], n: int) -> Iterator[_Item]:
    """Yield each item once ``n`` more were taken, or all."""
    waiting: deque[_Item] = deque()
    for item in items:
        waiting.append(item)
        del item
        if len(waiting) > n:
            yield waiting.popleft()
    while waiting:
        yield waiting.popleft()


class _Chunk:
    """A chunk's values, as far as its batches have run."""

    def __init__(self, runner: BatchRunner, job: ChunkJob) -> None:
        self._runner = runner
        self._job = job
        self._ends = np.cumsum([len(batch.rows) for batch in job.batches]).tolist()
        device = torch.device(getattr(runner.model.cfg, "device", None) or "cpu")
        shape = (self._ends[-1], len(runner.units))
        self._rows = host_memory(shape, torch.float32, device)
        self._values: Float[np.ndarray, "samples units"] = self._rows.numpy()
        self._totals = TokenSums.none(runner.units.n_coordinates)
        if job.begun is not None:
            # The earlier run's sums are continued in the same order, for the same bits.
            self._values[: len(job.begun.values)] = job.begun.values
            self._totals = job.begun.totals
        self.n_done = self._n_kept = 0 if job.begun is None else len(job.begun.values)

    @property
    def is_whole(self) -> bool:
        return self.n_done == len(self._values)

    def collected(self) -> Collected:
        return Collected(self._values, self._totals)

    def place(self, first: int, part: Batch, found: Reduced | Queued) -> None:
        """Begin to copy what a GPU gives to the chunk's rows."""
        if isinstance(found, Queued):
            found.copy_to(self._rows[first : first + len(part.rows)])

    def add(self, part: Batch, found: Reduced | Queued) -> None:
        """Add the next part, once it has run; and keep a piece if enough batches are whole."""
        self._add(part, found)
        n_samples, n_done = len(self._values), self.n_done
        least = self._n_kept + max(PIECE_PROMPTS, n_samples // PIECES)
        # The last piece is not kept: the chunk itself is about to be written.
        if self._job.keep is not None and n_samples > n_done >= least and n_done in self._ends:
            piece = Collected(self._values[self._n_kept : n_done], self._totals)
            self._job.keep(self._n_kept, piece)
            self._n_kept = n_done

    def _add(self, part: Batch, found: Reduced | Queued) -> None:
        n_counted = int(part.counted.sum())
        if isinstance(found, Reduced):
            values = self._values[self.n_done : self.n_done + len(part.rows)]
            values[:] = found.values.cpu().numpy()
            # Checked batch by batch: a bad prompt is named before hours of work are done.
            check_finite(values, self._runner.units, part.rows.tolist())
            sums = _added_in_turn(self._totals.sums, found.sums)
            n_content = int(found.n_content.sum())
        else:
            totals = found.totals()
            if (parts := self._runner.again(part, totals)) is not None:
                for other, found_again in parts:
                    self.place(self.n_done, other, found_again)
                    self._add(other, found_again)
                return
            sums, n_content = self._totals.sums + totals.sums, totals.n_content
        n_all, n_all_content = self._totals.n_tokens
        self._totals = TokenSums(sums, (n_all + n_counted, n_all_content + n_content))
        self.n_done += len(part.rows)


def _from_row(chunk: Sequence[Batch], first: int) -> Sequence[Batch]:
    """The chunk's batches from a row on, with which a batch begins."""
    starts = np.cumsum([0, *(len(batch.rows) for batch in chunk)])
    return chunk[int(np.searchsorted(starts, first)) :]


def _added_in_turn(
    totals: Float[np.ndarray, "2 coordinates"], sums: Float[torch.Tensor, "batch 2 coordinates"]
) -> Float[np.ndarray, "2 coordinates"]:
    """Add the samples' sums to the totals one after another.

    A single ``sum`` over the batch would round differently for each batch size.
    """
    totals = totals.copy()  # a piece may still hold the earlier ones
    for row in sums.cpu().double().numpy():
        totals += row
    return totals
