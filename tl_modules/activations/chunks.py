"""The files of a store; each holds the values of some samples."""

import hashlib
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from jaxtyping import Float

from tl_modules.activations import _half
from tl_modules.activations._half import Halves
from tl_modules.errors import ModulesError
from tl_modules.runtime.compiled_threads import start_threads
from tl_modules.saving import files
from tl_modules.saving.checked_json import checked_text, checked_whole_number

# The header that np.save writes. It is matched rather than parsed as Python, as np.load does, so
# that nothing in an untrusted file is evaluated.
_HEADER = re.compile(
    rb"\x93NUMPY\x01\x00.."
    rb"\{'descr': '(<[fu][24])', 'fortran_order': False, "
    rb"'shape': \((\d{1,18}), (\d{1,18})\), \} *\n",
    re.DOTALL,
)
_HEADER_BYTES = 128
_NAME = re.compile(r"\w[\w.-]*", re.ASCII)
REMEDY = "Write the store again, or fetch an intact copy."


@dataclass(frozen=True)
class Chunk:
    """One file of a store."""

    name: str
    """The file's name in the store's folder."""

    n_rows: int
    """Number of samples."""

    sha256: str
    """Checksum of the values' bytes."""

    @classmethod
    def from_dict(cls, described: dict[str, Any]) -> "Chunk":
        """Build a chunk from an entry of the store's list.

        Raises:
            ModulesError: If the name is not that of a file in the folder itself.
            KeyError: If a part is missing.
            TypeError: If a part is of another type.
        """
        name = checked_text(described["name"])
        if not _NAME.fullmatch(name):
            raise ModulesError(
                f"A chunk should be a file in the store's own folder; got {name!r:.80}. {REMEDY}"
            )
        return cls(
            name,
            checked_whole_number(described["n_rows"], least=1),
            checked_text(described["sha256"]),
        )


def check_fits(values: Float[np.ndarray, "_samples _units"], half: _half.Half) -> None:
    """Refuse values that the format cannot hold.

    Raises:
        ModulesError: If a value is too large.
    """
    largest = max(values.max(), -values.min()) if values.size else 0
    if largest > half.largest:
        raise ModulesError(
            f"Values should fit {half.name}, whose largest is {half.largest:.6g}; the largest "
            f"value is {largest:.6g}. Use dtype='bfloat16' or dtype='float32'."
        )


def write_chunk(folder: Path, number: int, halves: Halves, half: _half.Half) -> Chunk:
    """Write a chunk; its file appears only once it is complete.

    Raises:
        ModulesError: If the file cannot be written.
    """
    name = f"chunk-{number:05d}.npy"
    with files.atomic(folder / name) as file:
        np.save(file, halves.view(half.descr))
    return Chunk(name, len(halves), hashlib.sha256(halves.data).hexdigest())


def read_chunk(folder: Path, chunk: Chunk, n_units: int, half: _half.Half) -> Halves:
    """A chunk's values, as bits, in a memory map.

    Raises:
        ModulesError: If the file is missing, lies outside the folder, or is not of the listed
            type, shape or length.
    """
    shape = (chunk.n_rows, n_units)
    with _opened(folder, chunk) as file:
        if _shape(file, half) != shape:
            raise _wrong_content(folder, chunk, f"{shape} values", half)
        return np.memmap(file, half.bits, "r", _HEADER_BYTES, shape)


def n_columns(folder: Path, chunk: Chunk, half: _half.Half) -> int:
    """How many values a chunk has per row.

    Raises:
        ModulesError: If the file is missing, lies outside the folder, or is not a chunk of this
            type.
    """
    with _opened(folder, chunk) as file:
        shape = _shape(file, half)
    if shape is None:
        raise _wrong_content(folder, chunk, "rows", half)
    return shape[1]


def _wrong_content(folder: Path, chunk: Chunk, wanted: str, half: _half.Half) -> ModulesError:
    dtype = np.dtype(half.descr)
    return ModulesError(
        f"Chunk {str(folder / chunk.name)!r} should hold {wanted} of type {dtype}, row by row, and "
        f"nothing else. {REMEDY}"
    )


@contextmanager
def _opened(folder: Path, chunk: Chunk) -> Iterator[BinaryIO]:
    """Open a chunk's file, which must lie in the folder and not behind a link out of it."""
    path = folder / chunk.name
    try:
        if path.resolve(strict=True).parent != folder.resolve() or not path.is_file():
            raise ModulesError(
                f"Chunk {str(path)!r} should be a file in the store's own folder. {REMEDY}"
            )
        with path.open("rb") as file:
            yield file
    except (OSError, RuntimeError) as error:  # resolve() raises RuntimeError for circular links
        raise ModulesError(f"Cannot read chunk {str(path)!r}: {error}. {REMEDY}") from error


def _shape(file: BinaryIO, half: _half.Half) -> tuple[int, int] | None:
    """The shape of the values in a file; None if the file holds another type or other data."""
    match = _HEADER.fullmatch(file.read(_HEADER_BYTES))
    if match is None or match[1] != half.descr.encode():
        return None
    shape = int(match[2]), int(match[3])
    n_bytes = _HEADER_BYTES + half.n_bytes * prod(shape)
    return shape if os.fstat(file.fileno()).st_size == n_bytes else None


def check_chunk(folder: Path, chunk: Chunk, halves: Halves, half: _half.Half) -> None:
    """Compare a chunk with its checksum.

    Raises:
        ModulesError: If the chunk was altered, or holds NaN or infinite values.
    """
    if hashlib.sha256(halves.data).hexdigest() != chunk.sha256:
        raise ModulesError(
            f"Chunk {chunk.name!r} of {str(folder)!r} was altered: its checksum does not match. "
            f"{REMEDY}"
        )
    start_threads()
    bad = np.flatnonzero(_half.not_finite(halves, half.exponent))
    if len(bad):
        raise ModulesError(
            f"Chunk {chunk.name!r} of {str(folder)!r} should be finite; its row {bad[0]} holds NaN "
            f"or infinite values. {REMEDY}"
        )
