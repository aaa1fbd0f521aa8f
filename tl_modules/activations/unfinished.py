"""A store that is being collected: whatever stops it, what is there already is gone on from."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from filelock import FileLock, Timeout
from jaxtyping import Float

from tl_modules import files
from tl_modules.activations import _half
from tl_modules.activations.chunks import (
    Chunk,
    check_chunk,
    check_fits,
    read_chunk,
    write_chunk,
)
from tl_modules.activations.store import MANIFEST, ActivationStore, write_manifest
from tl_modules.errors import ModulesError
from tl_modules.frames import frame_to_json
from tl_modules.reading import Reading
from tl_modules.units import Units

_PLAN, _PLAN_KIND = "plan.safetensors", "CollectionPlan"
_DONE, _DONE_KIND = "done-{:05d}.safetensors", "CollectedChunk"
_LOCK = ".lock"


@dataclass(frozen=True, eq=False)
class Plan:
    """What a run collects. Two runs go on from each other only if all of it is the same."""

    units: Units
    """The columns."""

    samples: pd.DataFrame
    """The rows, in the order they run."""

    sizes: Sequence[int]
    """How many samples each chunk has."""

    dtype: str
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


class Unfinished:
    """A store's folder while one process writes to it; use it in a ``with``.

    Each chunk is written to a temporary file, flushed and renamed, and only then listed as done by
    a small file of its own. So a run that is killed at any moment loses at most the chunk it was
    at.
    """

    def __init__(self, path: str | Path, plan: Plan) -> None:
        """Prepare; nothing is written before the ``with``."""
        self._path = Path(path)
        self._plan = plan
        self._half = _half.FORMATS[plan.dtype]
        self._lock: FileLock | None = None
        self._done: dict[int, _Done] = {}

    def __enter__(self) -> "Unfinished":
        """Take the folder, and go on from what is there.

        Raises:
            ModulesError: If the folder holds something else, or was begun with another model,
                prompts or settings; another process writes to it; or it cannot be made.
        """
        try:
            self._path.mkdir(parents=True, exist_ok=True)
            names = {entry.name for entry in self._path.iterdir()}
            foreign = {name for name in names if name != _LOCK and not name.endswith(".part")}
            if foreign and _PLAN not in names:
                raise ModulesError(
                    f"{str(self._path)!r} should be a new or empty folder, or one that collect() "
                    "began; it holds other files. Name another one, or delete it first."
                )
            self._lock = FileLock(self._path / _LOCK, timeout=0)
            self._lock.acquire()
        except Timeout as error:
            raise ModulesError(
                f"Another process is writing to {str(self._path)!r}. Wait for it, or name another "
                "folder."
            ) from error
        except OSError as error:
            raise ModulesError(
                f"Cannot write to the folder {str(self._path)!r}: {error}."
            ) from error
        try:
            self._begin()
        except BaseException:
            self._lock.release()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        """Let the folder go."""
        if self._lock is not None:
            self._lock.release()  # its file stays: one that is deleted can be held twice

    @property
    def is_finished(self) -> bool:
        """Whether the store is whole."""
        return (self._path / MANIFEST).is_file()

    def missing(self) -> list[int]:
        """The chunks that are not there, or not as they were written."""
        if self.is_finished:
            return []
        for number in range(len(self._plan.sizes)):
            done = self._read(number)
            if done is not None:
                self._done[number] = done
        return [number for number in range(len(self._plan.sizes)) if number not in self._done]

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
        self._done[number] = _Done(chunk, n_tokens, totals)

    def finish(self) -> ActivationStore:
        """List the chunks: the store is whole.

        Raises:
            ModulesError: If a chunk is missing, or the list cannot be written.
        """
        if not self.is_finished:
            n_chunks = len(self._plan.sizes)
            if len(self._done) < n_chunks:
                raise ModulesError(
                    f"{n_chunks - len(self._done)} of {n_chunks} chunks of {str(self._path)!r} are "
                    "missing. Run the same collect() again."
                )
            # In the chunks' order, however they came about: equal runs have equal means.
            there = [self._done[number] for number in range(n_chunks)]
            n_tokens = sum(each.n_tokens for each in there)
            totals = np.sum([each.totals for each in there], axis=0)
            write_manifest(
                self._path,
                units=self._plan.units,
                samples=self._plan.samples,
                chunks=[each.chunk for each in there],
                dtype=self._plan.dtype,
                model_name=self._plan.model_name,
                reading=self._plan.reading,
                unit_means=(totals / n_tokens).astype(np.float32),
            )
        for path in self._path.glob(_DONE.replace("{:05d}", "*")):
            path.unlink(missing_ok=True)
        return ActivationStore(self._path)

    def _begin(self) -> None:
        """Compare with the plan that is there, or write ours."""
        for left in self._path.glob(".*.part"):  # of a run that was killed as it wrote
            left.unlink(missing_ok=True)
        plan = self._plan.described()
        written = self._path / _PLAN
        if written.is_file():
            found = files.read(written, _PLAN_KIND, lambda header, _: dict(header["plan"]))
            differ = [name for name in plan if found.get(name) != plan[name]]
            holds_chunks = self.is_finished or any(self._path.glob("chunk-*"))
            if differ and holds_chunks:
                raise ModulesError(
                    f"{str(self._path)!r} was begun with other settings: {', '.join(differ)} "
                    "differ. Nothing was changed there. Call collect() as before to go on, name "
                    "another folder, or delete this one."
                )
            if not differ:
                return
        files.write(written, _PLAN_KIND, {"plan": plan}, {})

    def _read(self, number: int) -> _Done | None:
        """A chunk as it is on disk; None if it is not there, or was altered."""
        path = self._path / _DONE.format(number)
        if not path.is_file():
            return None

        def build(header: dict[str, Any], arrays: dict[str, np.ndarray]) -> _Done:
            return _Done(Chunk(**header["chunk"]), int(header["n_tokens"]), arrays["totals"])

        try:
            done = files.read(path, _DONE_KIND, build)
            halves = read_chunk(self._path, done.chunk, len(self._plan.units), self._half)
            check_chunk(self._path, done.chunk, halves, self._half)
        except ModulesError:
            return None  # collected anew
        if done.chunk.n_rows != self._plan.sizes[number]:
            return None
        return done
