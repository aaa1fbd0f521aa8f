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
        block = other[k] * own[k]
        if block > 0:
            size += block
            inverse += 1.0 / block
            full += 1
    return size, inverse, full


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
    n_modules = len(other)
    own = np.zeros(n_modules, dtype=np.int64)
    total = 0.0
    for item in range(len(labels)):
        own[labels[item]] += 1
        total += sums[item, labels[item]]
    size, inverse, full = _parts(other, own)
    current = total / size * (full / inverse) if full > 0 else 0.0
    n_moved = 0
    for item in order:
        a = labels[item]
        # The blocks once the item has left a.
        block_a = other[a] * own[a]
        left_inverse, left_full = inverse, full
        if block_a > 0:
            left_inverse -= 1.0 / block_a
            left_full -= 1
        if block_a - other[a] > 0:
            left_inverse += 1.0 / (block_a - other[a])
            left_full += 1
        best, best_value = -1, -np.inf
        for b in range(n_modules):
            if b == a:
                continue
            # The same once it has joined b: only b's block changes.
            block_b = other[b] * own[b]
            new_inverse, new_full = left_inverse, left_full
            if block_b > 0:
                new_inverse -= 1.0 / block_b
                new_full -= 1
            if block_b + other[b] > 0:
                new_inverse += 1.0 / (block_b + other[b])
                new_full += 1
            new_size = size - other[a] + other[b]
            value = 0.0
            if new_full > 0:
                new_total = total + (sums[item, b] - sums[item, a])
                value = new_total / new_size * (new_full / new_inverse)
            if value > best_value:
                best, best_value = b, value
        if best >= 0 and best_value - current > min_gain:
            total += sums[item, best] - sums[item, a]
            own[a] -= 1
            own[best] += 1
            labels[item] = best
            # Afresh, so that rounding cannot build up over thousands of moves.
            size, inverse, full = _parts(other, own)
            current = total / size * (full / inverse) if full > 0 else 0.0
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
