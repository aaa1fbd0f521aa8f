"""The compiled inner loops of IterD. ``iterd.py`` calls them; ``tests/oracles.py`` checks them.

All sums are float64. Every loop that runs in parallel writes its own rows or columns, in a fixed
order, so results do not depend on the number of threads.
"""

from typing import no_type_check

import numpy as np
from numba import njit, prange

_COLUMN_BLOCK = 1024


@no_type_check
@njit(cache=True)
def _parts(other, own):
    """Sum of the blocks' sizes, of their inverses, and how many blocks are not empty."""
    size, inverse, full = 0, 0.0, 0
    for k in range(len(own)):
        size += other[k] * own[k]
        inverse, full = _resize(inverse, full, 0, other[k] * own[k])
    return size, inverse, full


@no_type_check
@njit(cache=True)
def _resize(inverse, full, before, after):
    """The sum of inverses and the count of full blocks once one block changes its size."""
    if before > 0:
        inverse -= 1.0 / before
        full -= 1
    if after > 0:
        inverse += 1.0 / after
        full += 1
    return inverse, full


@no_type_check
@njit(cache=True)
def _value(total, size, inverse, full):
    """L: the mean over the blocks times the harmonic mean of their sizes."""
    return total / size * (full / inverse) if full > 0 else 0.0


@no_type_check
@njit(cache=True)
def _best_label(sums, a, other, own, parts):
    """The label other than ``a`` that gives an item the highest L, and that L: O(1) a label."""
    total, size, inverse, full = parts
    inverse, full = _resize(inverse, full, other[a] * own[a], other[a] * (own[a] - 1))
    best, best_value = a, -np.inf
    for b in range(len(own)):
        if b != a:
            joined = _resize(inverse, full, other[b] * own[b], other[b] * (own[b] + 1))
            value = _value(total + (sums[b] - sums[a]), size - other[a] + other[b], *joined)
            if value > best_value:
                best, best_value = b, value
    return best, best_value


@no_type_check
@njit(cache=True)
def sweep(sums, labels, order, other, min_gain):
    """Visit items once, moving each to the label that raises L most; changes ``labels``.

    Args:
        sums: ``[items, modules]``: each item's activation summed over each label's members of the
            other kind (the samples when units move, the units when samples move).
        labels: ``[items]``, changed in place.
        order: ``[items]``: the visiting order.
        other: ``[modules]``: how many members of the other kind each label has.
        min_gain: A move must raise L by more than this.

    Returns:
        L after the sweep, and how many items moved.
    """
    own = np.zeros(len(other), dtype=np.int64)
    total = 0.0
    for item in range(len(labels)):
        own[labels[item]] += 1
        total += sums[item, labels[item]]
    size, inverse, full = _parts(other, own)
    current = _value(total, size, inverse, full)
    n_moved = 0
    for item in order:
        a = labels[item]
        b, value = _best_label(sums[item], a, other, own, (total, size, inverse, full))
        if value - current > min_gain:
            total += sums[item, b] - sums[item, a]
            own[a] -= 1
            own[b] += 1
            labels[item] = b
            # Afresh, so that rounding cannot build up over thousands of moves.
            size, inverse, full = _parts(other, own)
            current = _value(total, size, inverse, full)
            n_moved += 1
    return current, n_moved


@no_type_check
@njit(parallel=True, cache=True)
def unit_sums(matrix, sample_labels, n_modules):
    """Each unit's activation summed over each label's samples: ``[units, modules]``."""
    n_samples, n_units = matrix.shape
    sums = np.zeros((n_units, n_modules))
    n_blocks = (n_units + _COLUMN_BLOCK - 1) // _COLUMN_BLOCK
    for block in prange(n_blocks):
        start = block * _COLUMN_BLOCK
        stop = min(start + _COLUMN_BLOCK, n_units)
        for i in range(n_samples):
            k = sample_labels[i]
            for j in range(start, stop):
                sums[j, k] += matrix[i, j]
    return sums


@no_type_check
@njit(parallel=True, cache=True)
def sample_sums(matrix, unit_labels, n_modules):
    """Each sample's activation summed over each label's units: ``[samples, modules]``."""
    n_samples, n_units = matrix.shape
    sums = np.zeros((n_samples, n_modules))
    for i in prange(n_samples):
        for j in range(n_units):
            sums[i, unit_labels[j]] += matrix[i, j]
    return sums


@no_type_check
@njit(parallel=True, cache=True)
def shift_unit_sums(sums, matrix, moved, before, after):
    """Bring ``unit_sums`` up to date after some samples moved."""
    n_units = matrix.shape[1]
    n_blocks = (n_units + _COLUMN_BLOCK - 1) // _COLUMN_BLOCK
    for block in prange(n_blocks):
        start = block * _COLUMN_BLOCK
        stop = min(start + _COLUMN_BLOCK, n_units)
        for m in range(len(moved)):
            i = moved[m]
            for j in range(start, stop):
                sums[j, before[i]] -= matrix[i, j]
                sums[j, after[i]] += matrix[i, j]


@no_type_check
@njit(parallel=True, cache=True)
def shift_sample_sums(sums, matrix, moved, before, after):
    """Bring ``sample_sums`` up to date after some units moved."""
    for i in prange(matrix.shape[0]):
        for m in range(len(moved)):
            j = moved[m]
            sums[i, before[j]] -= matrix[i, j]
            sums[i, after[j]] += matrix[i, j]
