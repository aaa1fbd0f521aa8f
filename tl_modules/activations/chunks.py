"""The files of a store: values of some samples, with their checksum."""

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
from tl_modules.saving import files
from tl_modules.saving.checked_json import text, whole

# What np.save writes before a matrix; nothing in it is evaluated.
_HEADER = re.compile(
    rb"\x93NUMPY\x01\x00.."
    rb"\{'descr': '(<[fu][24])', 'fortran_order': False, "
    rb"'shape': \((\d{1,18}), (\d{1,18})\), \} *\n",
    re.DOTALL,
)
_HEADER_BYTES = 128
_NAME = re.compile(r"\w[\w.-]*", re.ASCII)
REMEDY = "Write the store anew, or fetch an intact copy."


@dataclass(frozen=True)
class Chunk:
    """One file of a store."""

    name: str
    """Its name in the store's folder."""

    n_rows: int
    """Samples in it."""

    sha256: str
    """Of its values' bytes."""

    @classmethod
    def from_dict(cls, described: dict[str, Any]) -> "Chunk":
        """A chunk as a list of chunks has it.

        Raises:
            ModulesError: If its name is no plain one.
            KeyError: If a part is missing.
            TypeError: If a part is of another type.
        """
        name = text(described["name"])
        if not _NAME.fullmatch(name):
            raise ModulesError(
                f"A chunk should be a file in the store's own folder; got {name!r:.80}. {REMEDY}"
            )
        return cls(name, whole(described["n_rows"], least=1), text(described["sha256"]))


def check_fits(values: Float[np.ndarray, "_samples _units"], half: _half.Half) -> None:
    """Refuse values that the format cannot hold.

    Raises:
        ModulesError: If one is too large.
    """
    largest = max(values.max(), -values.min()) if values.size else 0
    if largest > half.largest:
        raise ModulesError(
            f"Values up to {largest:.6g} do not fit {half.name}, which ends at "
            f"{half.largest:.6g}. Use dtype='bfloat16' or dtype='float32'."
        )


def write_chunk(folder: Path, number: int, halves: Halves, half: _half.Half) -> Chunk:
    """Write a chunk atomically.

    Raises:
        ModulesError: If it cannot be written.
    """
    name = f"chunk-{number:05d}.npy"
    with files.atomic(folder / name) as file:
        np.save(file, halves.view(half.descr))
    return Chunk(name, len(halves), hashlib.sha256(halves.data).hexdigest())


def read_chunk(folder: Path, chunk: Chunk, n_units: int, half: _half.Half) -> Halves:
    """A chunk's values, as bits, as a memory map.

    Raises:
        ModulesError: If the file is missing, lies outside the folder, or is of another type, shape
            or length than listed.
    """
    shape = (chunk.n_rows, n_units)
    with _opened(folder, chunk) as file:
        if _shape(file, half) != shape:
            raise _other(folder, chunk, f"{shape} values", half)
        return np.memmap(file, half.bits, "r", _HEADER_BYTES, shape)


def n_columns(folder: Path, chunk: Chunk, half: _half.Half) -> int:
    """How many values a chunk has a row.

    Raises:
        ModulesError: If the file is missing, lies outside the folder, or is no chunk of this type.
    """
    with _opened(folder, chunk) as file:
        found = _shape(file, half)
    if found is None:
        raise _other(folder, chunk, "rows", half)
    return found[1]


def _other(folder: Path, chunk: Chunk, wanted: str, half: _half.Half) -> ModulesError:
    dtype = np.dtype(half.descr)
    return ModulesError(
        f"Chunk {str(folder / chunk.name)!r} should hold {wanted} of type {dtype}, row by row, and "
        f"nothing else. {REMEDY}"
    )


@contextmanager
def _opened(folder: Path, chunk: Chunk) -> Iterator[BinaryIO]:
    """A chunk's file, which has to lie in the folder: not behind a link that leads out of it."""
    path = folder / chunk.name
    try:
        if path.resolve(strict=True).parent != folder.resolve() or not path.is_file():
            raise ModulesError(
                f"Chunk {str(path)!r} should be a file in the store's own folder. {REMEDY}"
            )
        with path.open("rb") as file:
            yield file
    except (OSError, RuntimeError) as error:  # RuntimeError: a link in a circle
        raise ModulesError(f"Cannot read chunk {str(path)!r}: {error}. {REMEDY}") from error


def _shape(file: BinaryIO, half: _half.Half) -> tuple[int, int] | None:
    """The shape of the values in a file, if they are of this type and all that it holds."""
    match = _HEADER.fullmatch(file.read(_HEADER_BYTES))
    if match is None or match[1] != half.descr.encode():
        return None
    shape = int(match[2]), int(match[3])
    whole_file = os.fstat(file.fileno()).st_size == _HEADER_BYTES + half.n_bytes * prod(shape)
    return shape if whole_file else None


def check_chunk(folder: Path, chunk: Chunk, halves: Halves, half: _half.Half) -> None:
    """Compare a chunk with its checksum.

    Raises:
        ModulesError: If it was altered, or holds NaN or infinite values.
    """
    if hashlib.sha256(halves.data).hexdigest() != chunk.sha256:
        raise ModulesError(
            f"Chunk {chunk.name!r} of {str(folder)!r} was altered: its checksum does not match. "
            f"{REMEDY}"
        )
    bad = np.flatnonzero(_half.not_finite(halves, half.exponent))
    if len(bad):
        raise ModulesError(
            f"Chunk {chunk.name!r} of {str(folder)!r} should be finite; its row {bad[0]} holds NaN "
            f"or infinite values. {REMEDY}"
        )
