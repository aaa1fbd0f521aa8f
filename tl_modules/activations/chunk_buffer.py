"""Samples that wait in memory until they fill a chunk of a store."""

from pathlib import Path

import numpy as np

from tl_modules.activations._half import Half, Halves
from tl_modules.activations.chunks import Chunk, write_chunk


class ChunkBuffer:
    """Writes encoded samples to a folder in chunks of one size; the last chunk may be smaller."""

    def __init__(self, folder: Path, half: Half, n_rows: int, n_units: int) -> None:
        """Prepare an empty buffer.

        Args:
            folder: The store's folder.
            half: The values' format.
            n_rows: Samples per chunk.
            n_units: Units of the store.
        """
        self.chunks: list[Chunk] = []
        """The chunks written so far."""
        self._folder = folder
        self._half = half
        self._rows = np.empty((n_rows, n_units), dtype=half.bits)
        self._n_filled = 0

    def add(self, encoded: Halves) -> None:
        """Buffer samples, and write each chunk that is full.

        Raises:
            ModulesError: If a chunk cannot be written.
        """
        done = 0
        while done < len(encoded):
            part = encoded[done : done + len(self._rows) - self._n_filled]
            self._rows[self._n_filled : self._n_filled + len(part)] = part
            self._n_filled += len(part)
            done += len(part)
            if self._n_filled == len(self._rows):
                self.flush()

    def flush(self) -> None:
        """Write the buffered samples, if there are any, as a chunk.

        Raises:
            ModulesError: If the chunk cannot be written.
        """
        if not self._n_filled:
            return
        rows = self._rows[: self._n_filled]
        self.chunks.append(write_chunk(self._folder, len(self.chunks), rows, self._half))
        self._n_filled = 0
