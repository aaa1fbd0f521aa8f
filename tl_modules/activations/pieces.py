"""A chunk that is being collected: its first prompts, in files of their own until it is whole.

A store's chunk may take minutes to collect. Its pieces are what an interrupted run resumes from.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tl_modules.activations.chunk_values import Collected
from tl_modules.errors import ModulesError
from tl_modules.models.batches import Batch
from tl_modules.saving import files
from tl_modules.saving.checked_json import whole
from tl_modules.units import Units

_FILE_KIND = "CollectedPiece"
_PREFIX = "piece-"
EVERY = f"{_PREFIX}*.safetensors"
"""All pieces of a folder, as ``Path.glob`` finds them."""


class Pieces:
    """The files of one chunk's first prompts, each of whole batches."""

    def __init__(self, folder: Path, number: int, units: Units) -> None:
        """Prepare; nothing is read or written yet.

        Args:
            folder: The store's folder.
            number: The chunk's number.
            units: The columns.
        """
        self._folder = folder
        self._number = number
        self._units = units

    def write(self, first: int, piece: Collected) -> None:
        """Write a piece.

        Args:
            first: Its first row in the chunk.
            piece: The values of its rows; the sums of all rows of the chunk up to its last.

        Raises:
            ModulesError: If it cannot be written.
        """
        header = {"first": first, "n_tokens": piece.n_tokens}
        arrays = {"values": piece.values, "totals": piece.totals}
        files.write(self._path(first), _FILE_KIND, header, arrays)

    def read(self, chunk: Sequence[Batch]) -> Collected | None:
        """The chunk's first rows, as far as whole pieces reach without a gap.

        Args:
            chunk: Its batches: a piece that does not end with one of them does not count.

        Returns:
            The values, and the sums of their rows; None if there is no piece.
        """
        ends = np.cumsum([len(batch.rows) for batch in chunk]).tolist()
        found: list[Collected] = []
        done = 0
        while (piece := self._piece(done, ends[-1] - done)) is not None:
            if done + len(piece.values) not in ends:
                break
            found.append(piece)
            done += len(piece.values)
        if not found:
            return None
        values = np.concatenate([piece.values for piece in found])
        return Collected(values, found[-1].totals, found[-1].n_tokens)

    def clear(self) -> None:
        """Delete the pieces."""
        for path in self._folder.glob(f"{_PREFIX}{self._number:05d}-*"):
            path.unlink(missing_ok=True)

    def _path(self, first: int) -> Path:
        return self._folder / f"{_PREFIX}{self._number:05d}-{first:07d}.safetensors"

    def _piece(self, first: int, most: int) -> Collected | None:
        """The piece that begins with a row; None if there is none, or it was altered."""

        def build(header: dict[str, Any], arrays: dict[str, np.ndarray]) -> Collected:
            values, totals = arrays["values"], arrays["totals"]
            shapes = (values.shape[1:], totals.shape)
            if shapes != ((len(self._units),), (self._units.n_coordinates,)) or not len(values):
                raise ValueError("no values of these units")
            if (values.dtype, totals.dtype) != (np.float32, np.float64):
                raise ValueError("values of another type")
            if header["first"] != first or not np.isfinite(values).all():
                raise ValueError("no values of these rows")
            return Collected(values, totals, whole(header["n_tokens"], least=1))

        largest = {"values": (most, len(self._units)), "totals": (self._units.n_coordinates,)}
        try:
            return files.read(self._path(first), _FILE_KIND, build, lambda _: largest)
        except ModulesError:
            return None  # collected anew
