"""The first prompts of an unfinished chunk, in files of their own.

A store's chunk may take minutes to collect. An interrupted run resumes from its pieces.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tl_modules.activations.chunk_values import Collected
from tl_modules.activations.token_sums import TokenSums, checked_counts
from tl_modules.errors import ModulesError
from tl_modules.models.batches import Batch
from tl_modules.saving import files
from tl_modules.units import Units

_FILE_KIND = "CollectedPiece"
_PREFIX = "piece-"
EVERY = f"{_PREFIX}*.safetensors"
"""The pattern with which ``Path.glob`` finds all pieces in a folder."""


class Pieces:
    """The files of one chunk's first prompts; each file holds whole batches."""

    def __init__(self, folder: Path, number: int, units: Units) -> None:
        """Prepare, without reading or writing.

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
            first: The piece's first row in the chunk.
            piece: The values of the piece's rows, and the sums of all the chunk's rows up to the
                piece's last.

        Raises:
            ModulesError: If the file cannot be written.
        """
        header = {"first": first, "n_tokens": list(piece.totals.n_tokens)}
        arrays = {"values": piece.values, "totals": piece.totals.sums}
        files.write(self._path(first), _FILE_KIND, header, arrays)

    def read(self, chunk: Sequence[Batch]) -> Collected | None:
        """Read the chunk's first rows, as far as pieces follow each other without a gap.

        Args:
            chunk: The chunk's batches. A piece that does not end where a batch ends is ignored.

        Returns:
            The values, and the sums of their rows; None if there is no piece.
        """
        ends = np.cumsum([len(batch.rows) for batch in chunk]).tolist()
        pieces: list[Collected] = []
        done = 0
        while (piece := self._piece(done, ends[-1] - done)) is not None:
            if done + len(piece.values) not in ends:
                break
            pieces.append(piece)
            done += len(piece.values)
        if not pieces:
            return None
        values = np.concatenate([piece.values for piece in pieces])
        # The last piece's sums are over the rows of all pieces.
        return Collected(values, pieces[-1].totals)

    def clear(self) -> None:
        """Delete the chunk's pieces."""
        for path in self._folder.glob(f"{_PREFIX}{self._number:05d}-*"):
            path.unlink(missing_ok=True)

    def _path(self, first: int) -> Path:
        return self._folder / f"{_PREFIX}{self._number:05d}-{first:07d}.safetensors"

    def _piece(self, first: int, most: int) -> Collected | None:
        """The piece that begins at a row; None if there is none, or if it was altered."""

        def build(header: dict[str, Any], arrays: dict[str, np.ndarray]) -> Collected:
            values, totals = arrays["values"], arrays["totals"]
            shapes = (values.shape[1:], totals.shape)
            if shapes != ((len(self._units),), (2, self._units.n_coordinates)) or not len(values):
                raise ValueError("the values are not of these units")
            if (values.dtype, totals.dtype) != (np.float32, np.float64):
                raise ValueError("the values are not float32, or the sums not float64")
            if header["first"] != first or not np.isfinite(values).all():
                raise ValueError("the values are not of these rows, or not finite")
            return Collected(values, TokenSums(totals, checked_counts(header["n_tokens"])))

        largest = {"values": (most, len(self._units)), "totals": (2, self._units.n_coordinates)}
        try:
            return files.read(self._path(first), _FILE_KIND, build, lambda _: largest)
        except ModulesError:
            return None  # its prompts are collected again
