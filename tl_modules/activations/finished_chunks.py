"""The records of complete chunks in an unfinished store: one small file per chunk."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tl_modules.activations.chunks import Chunk
from tl_modules.activations.store_folder import FINISHED_CHUNK
from tl_modules.activations.token_sums import TokenSums, checked_counts
from tl_modules.errors import ModulesError
from tl_modules.saving import files

FILE_KIND = "CollectedChunk"


@dataclass(frozen=True, eq=False)
class FinishedChunk:
    """A complete chunk on disk, and its part of the store's means."""

    chunk: Chunk
    """The file of values."""

    totals: TokenSums
    """The sums over the chunk's tokens."""

    def write(self, folder: Path, number: int) -> None:
        """Record that a chunk is complete.

        Raises:
            ModulesError: If the record cannot be written.
        """
        header = {"chunk": vars(self.chunk), "n_tokens": list(self.totals.n_tokens)}
        arrays = {"totals": self.totals.sums}
        files.write(folder / FINISHED_CHUNK.format(number), FILE_KIND, header, arrays)


def read_finished(folder: Path, number: int, n_coordinates: int) -> FinishedChunk | None:
    """Read the record of a chunk; None if there is none, or if it was altered.

    Args:
        folder: The store's folder.
        number: The chunk's number.
        n_coordinates: Coordinates of the store's units.
    """
    largest = {"totals": (2, n_coordinates)}

    def build(header: dict[str, Any], arrays: dict[str, np.ndarray]) -> FinishedChunk:
        n_tokens = checked_counts(header["n_tokens"])
        totals = arrays["totals"]
        if totals.shape != largest["totals"] or totals.dtype != np.float64:
            raise ValueError("the totals are not of these units")
        # A forged record could otherwise make infinite means of finite chunks.
        most = np.array(n_tokens)[:, None] * float(np.finfo(np.float32).max)
        if not (np.abs(totals) <= most).all():
            raise ValueError("no activations add up to these totals")
        return FinishedChunk(Chunk.from_dict(header["chunk"]), TokenSums(totals, n_tokens))

    try:
        return files.read(
            folder / FINISHED_CHUNK.format(number), FILE_KIND, build, lambda _: largest
        )
    except ModulesError:
        return None  # the chunk is collected again
