"""The sums of ``_kernel.py`` over one chunk of a store, whose values are z-scored on the way.

Sums are float64. Each iteration of a parallel loop writes its own rows or columns, in a fixed
order, so results do not depend on the number of threads.
"""

from typing import no_type_check

import numpy as np
from numba import njit, prange

from tl_modules.activations._half import COLUMN_BLOCK, decode, standardise
from tl_modules.discovery._kernel import _add


@no_type_check
@njit(parallel=True, cache=True)
def add_rows(sums, chunk, normal, first, rows, labels, sign):
    """Add some of a chunk's rows to ``sums[units, modules]``, each to its label's column.

    Args:
        sums: Changed in place; of consecutive units.
        chunk: Values as bits, ``[rows, all units]``.
        normal: How to z-score values: the format's shift and scale, each unit's mean, and 1 over
            each unit's standard deviation, float32.
        first: The first unit of ``sums``.
        rows: The numbers of the rows in the chunk.
        labels: The label of each of these rows.
        sign: 1 to add, -1 to subtract.
    """
    shift, scale, mean, inverse = normal
    n_summed, n_modules = sums.shape
    for block in prange((n_summed + COLUMN_BLOCK - 1) // COLUMN_BLOCK):
        offset = block * COLUMN_BLOCK
        size = min(COLUMN_BLOCK, n_summed - offset)
        start = first + offset
        stop = start + size
        row = np.empty(size, dtype=np.float32)
        # Summed in a contiguous array first: columns of ``sums`` are far apart in memory.
        change = np.zeros((n_modules, size))
        for m in range(len(rows)):
            decode(chunk[rows[m], start:stop], shift, scale, row)
            standardise(row, mean[start:stop], inverse[start:stop])
            _add(change[labels[m]], row, sign)
        sums[offset : offset + size] += change.T


@no_type_check
@njit(cache=True)
def _in_pairs(parts):
    """Add ``parts[lanes, modules]`` in pairs, into the first lane.

    The order of additions matches ``lanes.sum_in_pairs``, which adds across processes.
    """
    step = 1
    while step < len(parts):
        for lane in range(0, len(parts) - step, 2 * step):
            for k in range(parts.shape[1]):
                parts[lane, k] += parts[lane + step, k]
        step *= 2


@no_type_check
@njit(parallel=True, cache=True)
def sum_columns(sums, chunk, normal, bounds, labels):
    """Write each row's sum over each label's units into ``sums[rows, modules]``.

    Args:
        sums: Changed in place.
        chunk: Values as bits, ``[rows, units]``.
        normal: How to z-score values; see ``add_rows``.
        bounds: The first unit of each lane, and last the unit after the last lane. The number of
            lanes is a power of two.
        labels: The units' labels.
    """
    shift, scale, mean, inverse = normal
    n_lanes = len(bounds) - 1
    for i in prange(chunk.shape[0]):
        row = np.empty(COLUMN_BLOCK, dtype=np.float32)
        # One sum per lane, so that several processes add in the same order as one process does.
        parts = np.zeros((n_lanes, sums.shape[1]))
        for lane in range(n_lanes):
            # The decoded block is reused while it is in the core's cache.
            for start in range(bounds[lane], bounds[lane + 1], COLUMN_BLOCK):
                stop = min(start + COLUMN_BLOCK, bounds[lane + 1])
                part = row[: stop - start]
                decode(chunk[i, start:stop], shift, scale, part)
                standardise(part, mean[start:stop], inverse[start:stop])
                for j in range(stop - start):
                    parts[lane, labels[start + j]] += part[j]
        if n_lanes:
            _in_pairs(parts)
            sums[i] = parts[0]


@no_type_check
@njit(parallel=True, cache=True)
def change_columns(changes, chunk, normal, stops, moved, before, after):
    """Write the change of what ``sum_columns`` computes when some units move.

    Args:
        changes: ``[rows, modules]``, changed in place.
        chunk: Values as bits, ``[rows, units]``.
        normal: How to z-score values; see ``add_rows``.
        stops: The bounds of each lane's units in ``moved``.
        moved: The units that moved, ascending.
        before: All units' labels before the move.
        after: All units' labels after the move.
    """
    shift, scale, mean, inverse = normal
    n_lanes = len(stops) - 1
    for i in prange(chunk.shape[0]):
        # Arrays of one element: decode and standardise work on arrays, and a value has to be
        # computed by the same steps as in sum_columns to have the same bits.
        halves, value = np.empty(1, dtype=chunk.dtype), np.empty(1, dtype=np.float32)
        parts = np.zeros((n_lanes, changes.shape[1]))
        for lane in range(n_lanes):
            for m in range(stops[lane], stops[lane + 1]):
                j = moved[m]
                halves[0] = chunk[i, j]
                decode(halves, shift, scale, value)
                standardise(value, mean[j : j + 1], inverse[j : j + 1])
                parts[lane, before[j]] -= value[0]
                parts[lane, after[j]] += value[0]
        if n_lanes:
            _in_pairs(parts)
            changes[i] = parts[0]


@no_type_check
@njit(cache=True, nogil=True)
def decode_columns(chunk, normal, first, out):
    """Write some columns of a chunk, from ``first`` on, as float32 z-scores into ``out``."""
    shift, scale, mean, inverse = normal
    n_rows, width = out.shape
    for i in range(n_rows):
        for offset in range(0, width, COLUMN_BLOCK):
            size = min(COLUMN_BLOCK, width - offset)
            start, stop = first + offset, first + offset + size
            row = out[i, offset : offset + size]
            decode(chunk[i, start:stop], shift, scale, row)
            standardise(row, mean[start:stop], inverse[start:stop])
