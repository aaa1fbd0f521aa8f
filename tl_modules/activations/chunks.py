"""The files of a store: 16-bit values of some samples, with their checksum."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt16

from tl_modules import files
from tl_modules.activations import _half
from tl_modules.errors import ModulesError

Halves = UInt16[np.ndarray, "rows units"]
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


def check_fits(values: Float[np.ndarray, "_samples _units"], half: _half.Half) -> None:
    """Refuse values that the format cannot hold.

    Raises:
        ModulesError: If one is too large.
    """
    if values.size and np.abs(values).max() > half.largest:
        raise ModulesError(
            f"Values up to {np.abs(values).max():.6g} do not fit {half.name}, which ends at "
            f"{half.largest:.6g}. Use dtype='bfloat16'."
        )


def write_chunk(folder: Path, number: int, halves: Halves, half: _half.Half) -> Chunk:
    """Write a chunk atomically.

    Raises:
        ModulesError: If it cannot be written.
    """
    name = f"chunk-{number:05d}.npy"
    with files.atomic(folder / name) as file:
        np.save(file, halves.view(np.float16) if half is _half.FLOAT16 else halves)
    return Chunk(name, len(halves), hashlib.sha256(halves.data).hexdigest())


def read_chunk(folder: Path, chunk: Chunk, n_units: int, half: _half.Half) -> Halves:
    """A chunk's 16-bit values as a memory map.

    Raises:
        ModulesError: If the file is missing or has another shape than listed.
    """
    path = folder / Path(chunk.name).name
    try:
        values = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise ModulesError(f"Cannot read chunk {str(path)!r}: {error}. {REMEDY}") from error
    shape = (chunk.n_rows, n_units)
    dtype = np.dtype("<f2" if half is _half.FLOAT16 else "<u2")
    if not isinstance(values, np.ndarray) or (values.shape, values.dtype) != (shape, dtype):
        found = (getattr(values, "shape", None), getattr(values, "dtype", None))
        raise ModulesError(
            f"Chunk {str(path)!r} should hold {shape} values of type {dtype}; it holds "
            f"{found[0]} of {found[1]}. {REMEDY}"
        )
    if not values.flags.c_contiguous:
        raise ModulesError(f"Chunk {str(path)!r} should be stored row by row. {REMEDY}")
    return values.view(np.uint16)


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
