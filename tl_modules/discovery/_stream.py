"""The sums of ``_kernel.py`` over one 16-bit chunk of a store, z-scored on the way.

Sums are float64; loops that run in parallel write their own rows or columns in a fixed order.
"""

from typing import no_type_check

import numpy as np
from numba import njit, prange

from tl_modules.activations._half import COLUMN_BLOCK, decode, standardise
from tl_modules.discovery._kernel import _add


@no_type_check
@njit(parallel=True, cache=True)
def add_rows(sums, chunk, normal, rows, labels, sign):
    """Add some of a chunk's rows to ``sums[units, modules]``, each to its label's column.

    Args:
        sums: Changed in place.
        chunk: 16-bit values, ``[rows, units]``.
        normal: How values are read: the format's shift and scale, and each unit's mean and 1 over
            its standard deviation, float32.
        rows: Which rows of the chunk.
        labels: The label of each of them.
        sign: 1 to add, -1 to take away.
    """
    shift, scale, mean, inverse = normal
    n_units, n_modules = sums.shape
    for block in prange((n_units + COLUMN_BLOCK - 1) // COLUMN_BLOCK):
        start = block * COLUMN_BLOCK
        stop = min(start + COLUMN_BLOCK, n_units)
        row = np.empty(stop - start, dtype=np.float32)
        change = np.zeros((n_modules, stop - start))
        for m in range(len(rows)):
            decode(chunk[rows[m], start:stop], shift, scale, row)
            standardise(row, mean[start:stop], inverse[start:stop])
            _add(change[labels[m]], row, sign)
        sums[start:stop] += change.T


@no_type_check
@njit(parallel=True, cache=True)
def sum_columns(sums, chunk, normal, labels):
    """Write each row's sum over each label's units into ``sums[rows, modules]``."""
    shift, scale, mean, inverse = normal
    n_rows, n_units = chunk.shape
    for i in prange(n_rows):
        row = np.empty(COLUMN_BLOCK, dtype=np.float32)
        sums[i] = 0.0
        for start in range(0, n_units, COLUMN_BLOCK):
            stop = min(start + COLUMN_BLOCK, n_units)
            part = row[: stop - start]
            decode(chunk[i, start:stop], shift, scale, part)
            standardise(part, mean[start:stop], inverse[start:stop])
            for j in range(stop - start):
                sums[i, labels[start + j]] += part[j]


@no_type_check
@njit(parallel=True, cache=True)
def shift_columns(sums, chunk, normal, moved, before, after):
    """Bring ``sum_columns`` up to date after some units moved."""
    shift, scale, mean, inverse = normal
    for i in prange(chunk.shape[0]):
        halves, value = np.empty(1, dtype=np.uint16), np.empty(1, dtype=np.float32)
        for m in range(len(moved)):
            j = moved[m]
            halves[0] = chunk[i, j]
            decode(halves, shift, scale, value)
            standardise(value, mean[j : j + 1], inverse[j : j + 1])
            sums[i, before[j]] -= value[0]
            sums[i, after[j]] += value[0]
