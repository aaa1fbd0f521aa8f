"""The records of complete chunks in an unfinished store: one small file per chunk."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from tl_modules.activations.chunks import Chunk
from tl_modules.activations.store_folder import FINISHED_CHUNK
from tl_modules.errors import ModulesError
from tl_modules.saving import files
from tl_modules.saving.checked_json import checked_whole_number

FILE_KIND = "CollectedChunk"


@dataclass(frozen=True, eq=False)
class FinishedChunk:
    """A complete chunk on disk, and its part of the store's means."""

    chunk: Chunk
    """The file of values."""

    n_tokens: int
    """How many tokens count in the chunk."""

    totals: Float[np.ndarray, " _coordinates"]
    """Each coordinate's signed sum over those tokens, float64."""

    def write(self, folder: Path, number: int) -> None:
        """Record that a chunk is complete.

        Raises:
            ModulesError: If the record cannot be written.
        """
        header = {"chunk": vars(self.chunk), "n_tokens": self.n_tokens}
        files.write(
            folder / FINISHED_CHUNK.format(number), FILE_KIND, header, {"totals": self.totals}
        )


def read_finished(folder: Path, number: int, n_coordinates: int) -> FinishedChunk | None:
    """Read the record of a chunk; None if there is none, or if it was altered.

    Args:
        folder: The store's folder.
        number: The chunk's number.
        n_coordinates: Coordinates of the store's units.
    """
    largest = {"totals": (n_coordinates,)}

    def build(header: dict[str, Any], arrays: dict[str, np.ndarray]) -> FinishedChunk:
        n_tokens = checked_whole_number(header["n_tokens"], least=1)
        totals = arrays["totals"]
        if totals.shape != largest["totals"] or totals.dtype != np.float64:
            raise ValueError("the totals are not of these units")
        # A forged record could otherwise make infinite means of finite chunks.
        if not (np.abs(totals) <= n_tokens * float(np.finfo(np.float32).max)).all():
            raise ValueError("no activations add up to these totals")
        return FinishedChunk(Chunk.from_dict(header["chunk"]), n_tokens, totals)

    try:
        return files.read(
            folder / FINISHED_CHUNK.format(number), FILE_KIND, build, lambda _: largest
        )
    except ModulesError:
        return None  # the chunk is collected again
