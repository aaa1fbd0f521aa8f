"""A store while it is being collected. A run that stops at any moment can be resumed."""

import contextlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from filelock import FileLock
from jaxtyping import Float

from tl_modules.activations import _half
from tl_modules.activations.chunk_values import Collected
from tl_modules.activations.chunks import check_chunk, check_fits, read_chunk, write_chunk
from tl_modules.activations.collection_plan import Plan
from tl_modules.activations.finished_chunks import FinishedChunk, read_finished
from tl_modules.activations.interrupted import Interrupted
from tl_modules.activations.manifest import MANIFEST, Manifest
from tl_modules.activations.pieces import EVERY, Pieces
from tl_modules.activations.store import ActivationStore
from tl_modules.activations.store_folder import (
    FINISHED_CHUNK,
    LOCK,
    PLAN,
    acquire_lock,
    check_folder,
    check_no_other_locks,
    delete_partly_written,
    is_collected,
    wait_for_file,
    write_errors_explained,
)
from tl_modules.activations.token_sums import TokenSums
from tl_modules.errors import ModulesError
from tl_modules.models.batches import Batch
from tl_modules.runtime.processes import ALONE, Processes
from tl_modules.saving import files

_PLAN_KIND = "CollectionPlan"

_BEFORE = {"chunk_tokens": "None"}
"""Settings that the plans of earlier versions lack, with what those versions did."""


class UnfinishedStore:
    """A store's folder while one run writes to it; use it in a ``with``.

    Each chunk is written to a temporary file, flushed and renamed; then a small file records that
    the chunk is finished. Before that, the chunk's first prompts are kept in pieces. So a run that
    is killed loses at most the pieces that it was collecting. Each process of a run writes its own
    chunks; the first process begins and ends the folder.
    """

    def __init__(self, path: str | Path, plan: Plan, processes: Processes = ALONE) -> None:
        """Prepare; nothing is written before the ``with``.

        Args:
            path: The folder.
            plan: What the run collects.
            processes: The processes of the run.
        """
        self._path = files.checked_path(path)
        self._plan = plan
        self._processes = processes
        self._half = _half.FORMATS[plan.dtype]
        self._lock: FileLock | None = None
        self._n_kept: dict[int, int] = {}
        """How many samples of each chunk are on disk."""

    def __enter__(self) -> "UnfinishedStore":
        """Lock the folder, and resume from its files.

        Raises:
            ModulesError: If the folder holds other files, was begun with another model, other
                prompts or other settings, or cannot be made; if another run writes to it; if the
                processes made different calls; or if a process does not see the folder.
        """
        self._processes.check_same({"store": str(self._path), **self._plan.described()})
        try:
            self._processes.from_first(self._begin)
            if not self._processes.is_first:
                self._join()
        except BaseException:
            # Python does not call __exit__ if __enter__ raises, and the lock has to be released.
            self.__exit__()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None = None, *_: object) -> None:
        """Release the folder's lock.

        Raises:
            Interrupted: In place of a ``KeyboardInterrupt``.
        """
        if self._lock is not None:
            # The lock's file stays: two processes could hold the lock if one deleted the file.
            self._lock.release()
        if kind is not None and issubclass(kind, KeyboardInterrupt):
            n_kept, n_all = sum(self._n_kept.values()), len(self._plan.samples)
            rank = self._processes.rank
            of_rank = "" if self._processes.world_size == 1 else f" (rank {rank})"
            raise Interrupted(f"Interrupted after {n_kept:,} of {n_all:,} prompts{of_rank}")

    @property
    def is_finished(self) -> bool:
        """Whether the store is complete."""
        return (self._path / MANIFEST).is_file()

    def missing(self) -> list[int]:
        """The numbers of the chunks to collect: those that are missing or were altered.

        Every process gets the same list.
        """
        numbers = range(0 if self.is_finished else len(self._plan.sizes))
        # The first process checks for all: processes that looked at different moments could
        # disagree about which chunks to share.
        missing = self._processes.from_first(
            lambda: [number for number in numbers if not self._is_intact(number)]
        )
        intact = set(range(len(self._plan.sizes))) - set(missing)
        self._n_kept = {number: self._plan.sizes[number] for number in intact}
        return missing

    def begun(self, number: int, chunk: Sequence[Batch]) -> Collected | None:
        """The first samples of an unfinished chunk; None if no earlier run kept any.

        Args:
            number: The chunk's number.
            chunk: The chunk's batches.
        """
        first_samples = self._pieces(number).read(chunk)
        self._n_kept[number] = 0 if first_samples is None else len(first_samples.values)
        return first_samples

    def keep(self, number: int, first: int, piece: Collected) -> None:
        """Write a piece of an unfinished chunk.

        Args:
            number: The chunk's number.
            first: The piece's first row in the chunk.
            piece: The values of the piece's rows, and the sums of all the chunk's rows up to the
                piece's last.

        Raises:
            ModulesError: If the piece cannot be written.
        """
        self._pieces(number).write(first, piece)
        self._n_kept[number] = first + len(piece.values)

    def write(
        self,
        number: int,
        values: Float[np.ndarray, "_samples _units"],
        totals: TokenSums,
    ) -> None:
        """Write a complete chunk.

        Args:
            number: The chunk's number.
            values: The values of its samples.
            totals: The sums over its tokens.

        Raises:
            ModulesError: If a value does not fit the format, or the disk is full. Earlier chunks
                stay, and another run resumes from them.
        """
        check_fits(values, self._half)
        chunk = write_chunk(self._path, number, _half.encode(values, self._half), self._half)
        # Recorded only now, so that a record always belongs to a complete file; and the pieces are
        # deleted last, so that no moment is without one of the two.
        FinishedChunk(chunk, totals).write(self._path, number)
        self._n_kept[number] = len(values)
        with write_errors_explained(self._path):
            self._pieces(number).clear()

    def finish(self) -> ActivationStore:
        """Wait until every process has written its chunks, list them, and open the store.

        Raises:
            ModulesError: If a chunk is missing, or the list cannot be written.
        """
        self._processes.wait()
        self._processes.from_first(self._end)
        wait_for_file(self._path, MANIFEST, self._processes.rank)
        return ActivationStore(self._path)

    def _pieces(self, number: int) -> Pieces:
        return Pieces(self._path, number, self._plan.units)

    def _begin(self) -> None:
        """Make the folder and write its plan, or compare its plan with this run's."""
        with write_errors_explained(self._path):
            self._path.mkdir(parents=True, exist_ok=True)
            check_folder(self._path)
            self._lock = acquire_lock(self._path)
            check_no_other_locks(self._path)
            delete_partly_written(self._path)
            # A plan without any values can be replaced: nothing is lost.
            begun = (*self._path.glob("chunk-*"), *self._path.glob(EVERY))
            if self._differs(holds_chunks=self.is_finished or len(begun) > 0):
                files.write(self._path / PLAN, _PLAN_KIND, {"plan": self._plan.described()}, {})

    def _join(self) -> None:
        """Lock the folder that the first process began."""
        rank = self._processes.rank
        with write_errors_explained(self._path):
            wait_for_file(self._path, PLAN, rank)
            self._lock = acquire_lock(self._path, f"{LOCK}-{rank}")
            self._differs(holds_chunks=True)

    def _end(self) -> None:
        """Write the list of chunks, and delete the files that only an unfinished store needs."""
        if not self.is_finished:
            self._write_manifest()
        for path in (*self._path.glob("done-*.safetensors"), *self._path.glob(EVERY)):
            with contextlib.suppress(OSError):  # a file that stays does no harm
                if is_collected(path):
                    path.unlink(missing_ok=True)

    def _write_manifest(self) -> None:
        """List the chunks by number, so that equal runs write equal bytes."""
        n_chunks, n_coordinates = len(self._plan.sizes), self._plan.units.n_coordinates
        chunks, totals = [], TokenSums.none(n_coordinates)
        for number in range(n_chunks):
            if self._processes.world_size > 1:
                wait_for_file(self._path, FINISHED_CHUNK.format(number), self._processes.rank)
            finished = read_finished(self._path, number, n_coordinates)
            if finished is None:
                raise ModulesError(
                    f"Chunk {number} of {n_chunks} of {str(self._path)!r} is missing. Repeat the "
                    "same collect() to collect it."
                )
            chunks.append(finished.chunk)
            totals += finished.totals
        Manifest(
            self._plan.units,
            self._plan.samples,
            self._plan.model_name,
            self._plan.dtype,
            chunks,
            totals.unit_means,
            self._plan.reading,
            totals.content_means,
        ).write(self._path)

    def _differs(self, *, holds_chunks: bool) -> bool:
        """Whether this run's plan is not the folder's, or the folder has none.

        Args:
            holds_chunks: Whether values were collected by the folder's plan.

        Raises:
            ModulesError: If the plans differ and values were collected.
        """
        written, plan = self._path / PLAN, self._plan.described()
        if not written.is_file():
            return True
        earlier = files.read(written, _PLAN_KIND, lambda header, _: {**_BEFORE, **header["plan"]})
        differ = [name for name in plan if earlier.get(name) != plan[name]]
        if differ and holds_chunks:
            raise ModulesError(
                f"{str(self._path)!r} was begun with other settings: {', '.join(differ)} "
                "differ. Nothing was changed there. Repeat the earlier call to resume it, name "
                "another folder, or delete this one to start over."
            )
        return bool(differ)

    def _is_intact(self, number: int) -> bool:
        """Whether a chunk is finished and its file unaltered."""
        finished = read_finished(self._path, number, self._plan.units.n_coordinates)
        if finished is None or finished.chunk.n_rows != self._plan.sizes[number]:
            return False
        try:
            halves = read_chunk(self._path, finished.chunk, len(self._plan.units), self._half)
            check_chunk(self._path, finished.chunk, halves, self._half)
        except ModulesError:
            return False
        return True
