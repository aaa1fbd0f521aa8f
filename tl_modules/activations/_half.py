"""Encoding and decoding a store's number formats in compiled code.

numba supports neither float16 nor bfloat16 on a CPU, so values are handled as bits. The bits of
both formats, shifted to the left, are those of a float32. The exponent of float16 has another
offset, which one exact multiplication corrects, also for subnormal numbers. float32 is decoded by
the same code with a shift of 0.
"""

from dataclasses import dataclass
from typing import Literal, no_type_check

import numpy as np
from jaxtyping import Float, UInt16, UInt32
from numba import njit, prange

COLUMN_BLOCK = 4096
"""Columns decoded at a time: 16 KB of float32, which fits into a core's first-level cache."""


Halves = UInt16[np.ndarray, "rows units"] | UInt32[np.ndarray, "rows units"]

StoreDtype = Literal["float16", "bfloat16", "float32"]


@dataclass(frozen=True)
class Half:
    """One of a store's number formats, and how to decode it to float32."""

    name: StoreDtype
    descr: str
    """The type in the header of a NumPy file. NumPy has no bfloat16, so its bits are saved."""
    bits: type[np.uint16 | np.uint32]
    """The integer type that holds a value's bits."""
    shift: np.uint32
    """Bits to shift to the left."""
    scale: np.float32
    """Factor that corrects the exponent."""
    largest: float
    """Largest finite value."""
    exponent: np.uint16 | np.uint32
    """The exponent's bits; all are 1 in NaN and infinite values."""

    @property
    def n_bytes(self) -> int:
        """Bytes per value."""
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
    """Round values to a format, to the nearest value with ties to even; float32 stays exact.

    Args:
        values: Finite values.
        half: The format.

    Returns:
        The rounded values' bits.
    """
    if half is not BFLOAT16:
        # NumPy need not warn of overflow: the caller has compared the values with ``largest``.
        with np.errstate(over="ignore"):
            return np.ascontiguousarray(values, dtype=np.dtype(half.descr)).view(half.bits)
    halves = np.empty(values.shape, dtype=np.uint16)
    # Row by row, since the steps make several copies of what they work on.
    for row, encoded in zip(values, halves, strict=True):
        bits = np.ascontiguousarray(row, dtype=np.float32).view(np.uint32)
        # Adding just under half of the last kept bit rounds up what lies above the middle; adding
        # the last kept bit itself makes ties go to even.
        rounded = bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))
        encoded[:] = rounded >> np.uint32(16)
    return halves


@no_type_check
@njit(cache=True, nogil=True)
def decode(halves, shift, scale, out):
    """Decode bits into ``out``, float32. There are two loops so that each compiles to SIMD code."""
    bits = out.view(np.uint32)
    # numba compiles this once per integer type, so the next three values are constants in each.
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
    """Compute ``(row - mean) * inverse`` in place."""
    for j in range(row.shape[0]):
        row[j] = (row[j] - mean[j]) * inverse[j]


@no_type_check
@njit(parallel=True, cache=True)
def not_finite(chunk, exponent):
    """The number of NaN and infinite values in each row."""
    counts = np.zeros(chunk.shape[0], dtype=np.int64)
    for i in prange(chunk.shape[0]):
        # A local counter: counting in the shared array would be slower.
        count = 0
        for j in range(chunk.shape[1]):
            count += (chunk[i, j] & exponent) == exponent
        counts[i] = count
    return counts


@no_type_check
@njit(parallel=True, cache=True)
def add_moments(chunk, shift, scale, first, n_before, mean, squares):
    """Merge a chunk into running means and sums of squared deviations, in place.

    The method is Chan, Golub & LeVeque's (1983) pairwise update, in float64. It is accurate where
    a sum of squares minus a squared sum would cancel.

    Args:
        chunk: Values as bits, ``[rows, all units]``.
        shift: The format's shift.
        scale: The format's scale.
        first: The first of the consecutive units of ``mean`` and ``squares``.
        n_before: Number of rows merged before.
        mean: ``[units]``: the running means.
        squares: ``[units]``: the running sums of squared deviations from the mean.
    """
    n_rows, n_units = len(chunk), len(mean)
    for block in prange((n_units + COLUMN_BLOCK - 1) // COLUMN_BLOCK):
        start = block * COLUMN_BLOCK
        stop = min(start + COLUMN_BLOCK, n_units)
        row = np.empty(stop - start, dtype=np.float32)
        chunk_mean = np.zeros(stop - start)
        chunk_squares = np.zeros(stop - start)
        for i in range(n_rows):
            decode(chunk[i, first + start : first + stop], shift, scale, row)
            for j in range(stop - start):
                chunk_mean[j] += row[j]
        chunk_mean /= n_rows
        for i in range(n_rows):
            decode(chunk[i, first + start : first + stop], shift, scale, row)
            for j in range(stop - start):
                chunk_squares[j] += (row[j] - chunk_mean[j]) ** 2
        total = n_before + n_rows
        for j in range(stop - start):
            gap = chunk_mean[j] - mean[start + j]
            mean[start + j] += gap * n_rows / total
            squares[start + j] += chunk_squares[j] + gap * gap * n_before * n_rows / total
