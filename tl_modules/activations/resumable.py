"""A store that is being collected: whatever stops it, another run resumes from what is there."""

import contextlib
import hashlib
import json
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from filelock import FileLock, Timeout
from jaxtyping import Float

from tl_modules.activations import _half
from tl_modules.activations.chunk_values import Collected
from tl_modules.activations.chunks import (
    Chunk,
    check_chunk,
    check_fits,
    read_chunk,
    write_chunk,
)
from tl_modules.activations.interrupted import Interrupted
from tl_modules.activations.manifest import MANIFEST, Manifest, StoreDtype
from tl_modules.activations.pieces import EVERY, Pieces
from tl_modules.activations.reading import Reading
from tl_modules.activations.store import ActivationStore
from tl_modules.errors import ModulesError
from tl_modules.models.batches import Batch
from tl_modules.runtime.processes import ALONE, Ranks
from tl_modules.saving import files
from tl_modules.saving.checked_json import whole
from tl_modules.tables.frames import frame_to_json
from tl_modules.units import Units

_PLAN, _PLAN_KIND = "plan.safetensors", "CollectionPlan"
_DONE, _DONE_KIND = "done-{:05d}.safetensors", "CollectedChunk"
_LOCK = ".lock"
_NAMES = (
    rf"{re.escape(_PLAN)}|{re.escape(MANIFEST)}|done-\d{{5,}}\.safetensors|chunk-\d{{5,}}\.npy"
    r"|piece-\d{5,}-\d{7,}\.safetensors"
)
_BEFORE_PLAN = re.compile(rf"\.lock(?:-\d+)?|\.(?:{_NAMES})\.[0-9a-f]{{8}}\.part")
"""A lock, or a file that was being written: all that a folder holds before its plan."""
_OWN = re.compile(rf"{_NAMES}|{_BEFORE_PLAN.pattern}")
"""Every file that a collection writes into its folder."""
_SEEN_AFTER_S = 60.0
"""A file of another machine may take so long to show: NFS keeps what it knew of a folder."""


@dataclass(frozen=True, eq=False)
class Plan:
    """What a run collects. Two runs go on from each other only if all of it is the same."""

    units: Units
    """The columns."""

    samples: pd.DataFrame
    """The rows, in the order they run."""

    sizes: Sequence[int]
    """How many samples each chunk has."""

    dtype: StoreDtype
    """The store's format."""

    reading: Reading
    """How values come about."""

    model_name: str
    """The model."""

    told_by: Mapping[str, str]
    """What else should be the same, by what a refusal calls it."""

    def described(self) -> dict[str, str]:
        """All of it, by what a refusal calls it; long parts as checksums."""
        return {
            "model name": self.model_name,
            "units": checksum(json.dumps(self.units.to_dict())),
            "prompts": checksum(json.dumps(frame_to_json(self.samples))),
            "chunk sizes": checksum(json.dumps(list(self.sizes))),
            "dtype": self.dtype,
            "reading": str(self.reading),
            **self.told_by,
        }


def checksum(*parts: str | bytes) -> str:
    """SHA-256 over some texts or bytes, each with its length."""
    digest = hashlib.sha256()
    for part in parts:
        data = part if isinstance(part, bytes) else part.encode()
        digest.update(len(data).to_bytes(8, "little"))
        digest.update(data)
    return digest.hexdigest()


@dataclass(frozen=True, eq=False)
class _Done:
    """What is known of a chunk on disk."""

    chunk: Chunk
    n_tokens: int
    totals: Float[np.ndarray, " _coordinates"]


def check_folder(path: Path) -> None:
    """Refuse a folder that no collection began and that is not empty.

    Raises:
        ModulesError: If it is one, a file, or a folder that cannot be read.
    """
    if path.exists() and not path.is_dir():
        raise ModulesError(
            f"A store should be a folder; {str(path)!r} is a file. Name another, or move it away."
        )
    try:
        names = {entry.name for entry in path.iterdir()} if path.is_dir() else set()
    except OSError as error:
        raise ModulesError(f"Cannot read the folder {str(path)!r}: {error}.") from error
    others = sorted(name for name in names if _BEFORE_PLAN.fullmatch(name) is None)
    if _PLAN not in names and others:
        raise ModulesError(
            f"{str(path)!r} should be a new or empty folder, or one that an earlier collection "
            f"began; it holds other files, such as {others[0]!r}. Name another one, or move the "
            "files away."
        )


def delete_store(folder: Path) -> None:
    """Delete a store's files, whole or unfinished, and its folder where nothing else is in it.

    Raises:
        ModulesError: If no collection began the folder, or a file cannot be deleted.
    """
    check_folder(folder)
    try:
        own = [entry for entry in folder.iterdir() if _OWN.fullmatch(entry.name)]
        for path in sorted(own, key=lambda path: path.name == _PLAN):  # it names the others
            if path.is_symlink() or path.is_file():
                path.unlink(missing_ok=True)
        if not any(folder.iterdir()):
            folder.rmdir()
    except OSError as error:
        raise ModulesError(f"Cannot delete the folder {str(folder)!r}: {error}.") from error


class Unfinished:
    """A store's folder while one run writes to it; use it in a ``with``.

    Each chunk is written to a temporary file, flushed and renamed, and only then listed as done by
    a small file of its own; until then its first prompts are kept in pieces. So a run that is
    killed at any moment loses at most the pieces it was at. Each rank of a run writes chunks of its
    own; rank 0 begins and ends the folder.
    """

    def __init__(self, path: str | Path, plan: Plan, ranks: Ranks = ALONE) -> None:
        """Prepare; nothing is written before the ``with``."""
        self._path = files.checked_path(path)
        self._plan = plan
        self._ranks = ranks
        self._half = _half.FORMATS[plan.dtype]
        self._lock: FileLock | None = None
        self._n_kept: dict[int, int] = {}
        """How many samples of each chunk are on disk."""

    def __enter__(self) -> "Unfinished":
        """Take the folder, and go on from what is there.

        Raises:
            ModulesError: If the folder holds something else, or was begun with another model,
                prompts or settings; another run writes to it; it cannot be made; the ranks were
                called with different things; or one does not see the folder.
        """
        self._ranks.check_same({"store": str(self._path), **self._plan.described()})
        try:
            self._ranks.told(self._begin)
            if not self._ranks.is_first:
                self._join()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None = None, *_: object) -> None:
        """Let the folder go.

        Raises:
            Interrupted: In the place of a ``KeyboardInterrupt``.
        """
        if self._lock is not None:
            self._lock.release()  # its file stays: one that is deleted can be held twice
        if kind is not None and issubclass(kind, KeyboardInterrupt):
            n_kept, n_all = sum(self._n_kept.values()), len(self._plan.samples)
            of_rank = "" if self._ranks.world == 1 else f" (rank {self._ranks.rank})"
            raise Interrupted(f"Interrupted after {n_kept:,} of {n_all:,} prompts{of_rank}")

    @property
    def is_finished(self) -> bool:
        """Whether the store is whole."""
        return (self._path / MANIFEST).is_file()

    def missing(self) -> list[int]:
        """The chunks that are not there, or not as they were written; the same on every rank."""
        numbers = range(0 if self.is_finished else len(self._plan.sizes))
        found = self._ranks.told(lambda: [each for each in numbers if not self._is_there(each)])
        there = set(range(len(self._plan.sizes))) - set(found)
        self._n_kept = {number: self._plan.sizes[number] for number in there}
        return found

    def begun(self, number: int, chunk: Sequence[Batch]) -> Collected | None:
        """The first samples of a chunk that is not whole, if an earlier run kept some.

        Args:
            number: Which.
            chunk: Its batches.
        """
        found = self._pieces(number).read(chunk)
        self._n_kept[number] = 0 if found is None else len(found.values)
        return found

    def keep(self, number: int, first: int, piece: Collected) -> None:
        """Write a piece of a chunk that is not whole yet.

        Args:
            number: Which chunk.
            first: The piece's first row in it.
            piece: The values of its rows; the sums of all rows of the chunk up to its last.

        Raises:
            ModulesError: If it cannot be written.
        """
        self._pieces(number).write(first, piece)
        self._n_kept[number] = first + len(piece.values)

    def write(
        self,
        number: int,
        values: Float[np.ndarray, "_samples _units"],
        totals: Float[np.ndarray, " _coordinates"],
        n_tokens: int,
    ) -> None:
        """Write a chunk.

        Args:
            number: Which.
            values: Its samples' values.
            totals: The signed sums of its coordinates over all tokens.
            n_tokens: How many those are.

        Raises:
            ModulesError: If a value does not fit the format, or the disk is full: the chunks before
                stay, and another run goes on from them.
        """
        check_fits(values, self._half)
        chunk = write_chunk(self._path, number, _half.encode(values, self._half), self._half)
        header = {"chunk": vars(chunk), "n_tokens": n_tokens}
        files.write(self._path / _DONE.format(number), _DONE_KIND, header, {"totals": totals})
        self._n_kept[number] = len(values)
        with self._writable():
            self._pieces(number).clear()

    def _pieces(self, number: int) -> Pieces:
        return Pieces(self._path, number, self._plan.units)

    def finish(self) -> ActivationStore:
        """List the chunks, once every rank has written its own: the store is whole.

        Raises:
            ModulesError: If a chunk is missing, or the list cannot be written.
        """
        self._ranks.wait()
        self._ranks.told(self._end)
        self._await(MANIFEST)
        return ActivationStore(self._path)

    def _begin(self) -> None:
        """Make the folder and the plan in it, or compare the plan that is there with ours."""
        with self._writable():
            self._path.mkdir(parents=True, exist_ok=True)
            check_folder(self._path)
            self._lock = self._held(_LOCK)
            for left in self._path.glob(f"{_LOCK}-*"):  # a rank may outlive its run's rank 0
                self._held(left.name).release()
            for left in self._path.glob(".*.part"):  # of a run that was killed as it wrote
                if _BEFORE_PLAN.fullmatch(left.name):
                    left.unlink(missing_ok=True)
            begun = (*self._path.glob("chunk-*"), *self._path.glob(EVERY))
            if self._differ(holds_chunks=self.is_finished or len(begun) > 0):
                files.write(self._path / _PLAN, _PLAN_KIND, {"plan": self._plan.described()}, {})

    def _join(self) -> None:
        """Find the folder that rank 0 began."""
        with self._writable():
            self._await(_PLAN)
            self._lock = self._held(f"{_LOCK}-{self._ranks.rank}")
            self._differ(holds_chunks=True)

    def _end(self) -> None:
        """Write the list of chunks, in their order: equal runs are equal, byte for byte."""
        if not self.is_finished:
            n_chunks = len(self._plan.sizes)
            chunks, n_tokens, totals = [], 0, np.zeros(self._plan.units.n_coordinates)
            for number in range(n_chunks):
                if self._ranks.world > 1:
                    self._await(_DONE.format(number))
                done = self._done(number)
                if done is None:
                    raise ModulesError(
                        f"Chunk {number} of {n_chunks} of {str(self._path)!r} is missing. Run the "
                        "same collect() again."
                    )
                chunks.append(done.chunk)
                n_tokens += done.n_tokens
                totals += done.totals
            Manifest(
                self._plan.units,
                self._plan.samples,
                self._plan.model_name,
                self._plan.dtype,
                chunks,
                (totals / n_tokens).astype(np.float32),
                self._plan.reading,
            ).write(self._path)
        for path in (*self._path.glob(_DONE.replace("{:05d}", "*")), *self._path.glob(EVERY)):
            with contextlib.suppress(OSError):  # the store is whole with them, too
                if _OWN.fullmatch(path.name):
                    path.unlink(missing_ok=True)

    def _differ(self, *, holds_chunks: bool) -> bool:
        """Whether the plan is another one than in the folder, or none is there.

        Raises:
            ModulesError: If it is another one, and chunks were collected by that.
        """
        written, plan = self._path / _PLAN, self._plan.described()
        if not written.is_file():
            return True
        found = files.read(written, _PLAN_KIND, lambda header, _: dict(header["plan"]))
        differ = [name for name in plan if found.get(name) != plan[name]]
        if differ and holds_chunks:
            raise ModulesError(
                f"{str(self._path)!r} was begun with other settings: {', '.join(differ)} "
                "differ. Nothing was changed there. Repeat the earlier run as it was to resume it, "
                "write elsewhere, or delete this folder to start over."
            )
        return bool(differ)

    def _held(self, name: str) -> FileLock:
        """One of the folder's locks, held.

        Raises:
            ModulesError: If another process holds it.
            OSError: If it cannot be written.
        """
        lock = FileLock(self._path / name, timeout=0)
        try:
            lock.acquire()
        except Timeout as error:
            raise ModulesError(
                f"Another process is writing to {str(self._path)!r}. Wait for it, name another "
                "folder, or, in a script of several processes, pass distributed=True."
            ) from error
        return lock

    def _await(self, name: str) -> None:
        """Until another rank's file shows: a network's file system may take its time.

        Raises:
            ModulesError: If it does not show.
        """
        stop = time.monotonic() + _SEEN_AFTER_S
        while not (self._path / name).is_file():
            if time.monotonic() > stop:
                raise ModulesError(
                    f"Every rank should see the same folder; rank {self._ranks.rank} does not see "
                    f"{name!r}, which another wrote, in {str(self._path)!r}. Name a folder that "
                    "all machines share."
                )
            time.sleep(0.05)

    @contextlib.contextmanager
    def _writable(self) -> Iterator[None]:
        """What the system refuses, as a refusal."""
        try:
            yield
        except OSError as error:
            raise ModulesError(
                f"Cannot write to the folder {str(self._path)!r}: {error}."
            ) from error

    def _is_there(self, number: int) -> bool:
        """Whether a chunk is as it was written."""
        done = self._done(number)
        if done is None or done.chunk.n_rows != self._plan.sizes[number]:
            return False
        try:
            halves = read_chunk(self._path, done.chunk, len(self._plan.units), self._half)
            check_chunk(self._path, done.chunk, halves, self._half)
        except ModulesError:
            return False
        return True

    def _done(self, number: int) -> _Done | None:
        """What a chunk's note says; None if there is none, or it was altered."""

        def build(header: dict[str, Any], arrays: dict[str, np.ndarray]) -> _Done:
            n_tokens, totals = whole(header["n_tokens"], least=1), arrays["totals"]
            if totals.shape != largest["totals"] or totals.dtype != np.float64:
                raise ValueError("no totals of these units")
            if not (np.abs(totals) <= n_tokens * float(np.finfo(np.float32).max)).all():
                raise ValueError("totals that no activations add up to")
            return _Done(Chunk.from_dict(header["chunk"]), n_tokens, totals)

        largest = {"totals": (self._plan.units.n_coordinates,)}
        try:
            return files.read(
                self._path / _DONE.format(number), _DONE_KIND, build, lambda _: largest
            )
        except ModulesError:
            return None  # collected anew
