"""A store's floats as bits in compiled code: numba reads neither float16 nor bfloat16 on a CPU.

Both are the upper bits of a float32 after a shift; float16's narrower exponent is put right by
one exact multiplication, which also covers subnormal numbers. float32 is read in the same way, with
a shift of 0.
"""

from dataclasses import dataclass
from typing import Literal, no_type_check

import numpy as np
from jaxtyping import Float, UInt16, UInt32
from numba import njit, prange

COLUMN_BLOCK = 4096
"""Columns decoded at a time: 16 KB of float32, which stays in a core's first cache."""


Halves = UInt16[np.ndarray, "rows units"] | UInt32[np.ndarray, "rows units"]

StoreDtype = Literal["float16", "bfloat16", "float32"]


@dataclass(frozen=True)
class Half:
    """How one of the formats turns into float32."""

    name: StoreDtype
    descr: str
    """The type that NumPy writes into a file's header: bfloat16 is none of its own."""
    bits: type[np.uint16 | np.uint32]
    """The whole numbers that hold a value's bits."""
    shift: np.uint32
    scale: np.float32
    largest: float
    exponent: np.uint16 | np.uint32
    """The bits that are all ones in what is not finite."""

    @property
    def n_bytes(self) -> int:
        """Bytes of a value."""
        return self.bits().nbytes


FLOAT16 = Half(
    "float16", "<f2", np.uint16, np.uint32(13), np.float32(2.0**112), 65504.0, np.uint16(0x7C00)
)
BFLOAT16 = Half(
    "bfloat16",
    "<u2",
    np.uint16,
    np.uint32(16),
    np.float32(1.0),
    3.3895313892515355e38,
    np.uint16(0x7F80),
)
FLOAT32 = Half(
    "float32",
    "<f4",
    np.uint32,
    np.uint32(0),
    np.float32(1.0),
    float(np.finfo(np.float32).max),
    np.uint32(0x7F800000),
)
FORMATS = {half.name: half for half in (FLOAT16, BFLOAT16, FLOAT32)}


def encode(values: Float[np.ndarray, "rows units"], half: Half) -> Halves:
    """Values as a format's bits, rounded to the nearest (ties to even); float32 ones are kept."""
    if half is not BFLOAT16:
        with np.errstate(over="ignore"):  # the caller has compared with ``largest``
            return np.ascontiguousarray(values, dtype=np.dtype(half.descr)).view(half.bits)
    halves = np.empty(values.shape, dtype=np.uint16)
    for row, own in zip(values, halves, strict=True):  # a row at a time: it makes copies
        bits = np.ascontiguousarray(row, dtype=np.float32).view(np.uint32)
        rounded = bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))
        own[:] = rounded >> np.uint32(16)
    return halves


@no_type_check
@njit(cache=True, nogil=True)
def decode(halves, shift, scale, out):
    """A format's bits as float32, into ``out``. Two loops, each of which compiles to SIMD code."""
    bits = out.view(np.uint32)
    # Constants of the compiled code: it is compiled once for 16 bits, and once for 32.
    width = 8 * halves.itemsize
    sign = np.uint32(1 << (width - 1))
    to_the_top = np.uint32(32 - width)
    for j in range(halves.shape[0]):
        value = np.uint32(halves[j])
        bits[j] = ((value & (sign - np.uint32(1))) << shift) | ((value & sign) << to_the_top)
    for j in range(halves.shape[0]):
        out[j] *= scale


@no_type_check
@njit(cache=True, nogil=True)
def standardise(row, mean, inverse):
    """``(row - mean) * inverse``, in place."""
    for j in range(row.shape[0]):
        row[j] = (row[j] - mean[j]) * inverse[j]


@no_type_check
@njit(parallel=True, cache=True)
def not_finite(chunk, exponent):
    """How many of each row's values are NaN or infinite."""
    bad = np.zeros(chunk.shape[0], dtype=np.int64)
    for i in prange(chunk.shape[0]):
        found = 0
        for j in range(chunk.shape[1]):
            found += (chunk[i, j] & exponent) == exponent
        bad[i] = found
    return bad


@no_type_check
@njit(parallel=True, cache=True)
def add_moments(chunk, shift, scale, first, n_before, mean, squares):
    """Merge a chunk into running means and sums of squared deviations, in place.

    Chan, Golub & LeVeque's (1983) pairwise update of Welford's method, in float64.

    Args:
        chunk: Values as bits, ``[rows, units]``.
        shift: Of the format.
        scale: Of the format.
        first: The first of the units that the rest is of; they follow each other.
        n_before: Rows merged already.
        mean: ``[own units]``.
        squares: ``[own units]``: sums of squared deviations from the mean.
    """
    n_rows, n_own = len(chunk), len(mean)
    for block in prange((n_own + COLUMN_BLOCK - 1) // COLUMN_BLOCK):
        start = block * COLUMN_BLOCK
        stop = min(start + COLUMN_BLOCK, n_own)
        row = np.empty(stop - start, dtype=np.float32)
        own_mean = np.zeros(stop - start)
        own_squares = np.zeros(stop - start)
        for i in range(n_rows):
            decode(chunk[i, first + start : first + stop], shift, scale, row)
            for j in range(stop - start):
                own_mean[j] += row[j]
        own_mean /= n_rows
        for i in range(n_rows):
            decode(chunk[i, first + start : first + stop], shift, scale, row)
            for j in range(stop - start):
                own_squares[j] += (row[j] - own_mean[j]) ** 2
        total = n_before + n_rows
        for j in range(stop - start):
            gap = own_mean[j] - mean[start + j]
            mean[start + j] += gap * n_rows / total
            squares[start + j] += own_squares[j] + gap * gap * n_before * n_rows / total
