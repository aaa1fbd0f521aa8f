"""The list of a store's chunks, with the store's units and samples."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pandas as pd
from jaxtyping import Float

from tl_modules.activations import _half
from tl_modules.activations._half import StoreDtype
from tl_modules.activations.chunks import Chunk, n_columns
from tl_modules.activations.reading import Reading
from tl_modules.activations.value_checks import check_unit_means
from tl_modules.errors import check_choice
from tl_modules.saving import files
from tl_modules.saving.checked_json import checked_entries, checked_text
from tl_modules.tables.frames import frame_from_json, frame_to_json
from tl_modules.units import Units

DTYPES: tuple[StoreDtype, ...] = get_args(StoreDtype)

MANIFEST = "store.safetensors"
"""The file with the list. A folder without it holds no finished store."""

_FILE_KIND = "ActivationStore"

_MEANS = ("unit_means", "content_means")


@dataclass(frozen=True, eq=False)
class Manifest:
    """The content of a store but for the values."""

    units: Units
    """The columns."""

    samples: pd.DataFrame
    """The rows."""

    model_name: str
    """The name of the model that was run."""

    dtype: StoreDtype
    """The number format of the chunks' values."""

    chunks: Sequence[Chunk]
    """The chunks' files, in the order of their rows."""

    unit_means: Float[np.ndarray, " _coordinates"] | None
    """Each coordinate's mean (signed), for mean ablation."""

    reading: Reading
    """How the values came about."""

    content_means: Float[np.ndarray, " _coordinates"] | None = None
    """Each coordinate's mean (signed) over the content tokens."""

    @classmethod
    def read(cls, folder: Path) -> "Manifest":
        """Read the list in a store's folder.

        Raises:
            ModulesError: If the list is missing or was altered.
        """
        return files.read(folder / MANIFEST, _FILE_KIND, partial(cls._build, folder), _largest)

    def write(self, folder: Path) -> None:
        """Write the list, which finishes the store.

        Raises:
            ModulesError: If the list cannot be written.
        """
        header = {
            "units": self.units.to_dict(),
            "samples": frame_to_json(self.samples),
            "model_name": self.model_name,
            "dtype": self.dtype,
            "reading": self.reading.to_dict(),
            "chunks": [vars(chunk) for chunk in self.chunks],
        }
        given = {"unit_means": self.unit_means, "content_means": self.content_means}
        arrays = {name: means for name, means in given.items() if means is not None}
        files.write(folder / MANIFEST, _FILE_KIND, header, arrays)

    @classmethod
    def _build(
        cls, folder: Path, header: dict[str, Any], arrays: dict[str, np.ndarray]
    ) -> "Manifest":
        check_choice("dtype", header["dtype"], DTYPES)
        chunks = checked_entries(header["chunks"], Chunk.from_dict)
        # The chunk's own header limits the number of units, so that a forged list cannot claim
        # billions of units and fill the memory.
        units = Units.from_dict(
            header["units"], n_columns(folder, chunks[0], _half.FORMATS[header["dtype"]])
        )
        for name in _MEANS:
            check_unit_means(arrays.get(name), units, name)
        return cls(
            units,
            frame_from_json(header["samples"]),
            checked_text(header["model_name"]),
            header["dtype"],
            chunks,
            arrays.get("unit_means"),
            Reading.from_dict(header["reading"]),
            arrays.get("content_means"),
        )


def _largest(header: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """The largest shapes that the list's arrays may have."""
    return dict.fromkeys(_MEANS, (Units.sizes(header["units"])[1],))
