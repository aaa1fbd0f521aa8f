"""The compiled inner loops of IterD. ``iterd.py`` calls them; ``tests/oracles.py`` checks them.

All sums are float64. Every loop that runs in parallel writes its own rows or columns, in a fixed
order, so results do not depend on the number of threads.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, no_type_check

import numpy as np
from numba import njit, prange

_COLUMN_BLOCK = 1024


@no_type_check
@njit(cache=True, nogil=True)
def _inverse(size):
    """1 / size, and 0 for an empty block, which the harmonic mean leaves out."""
    return 1.0 / size if size > 0 else 0.0


@no_type_check
@njit(cache=True, nogil=True)
def _value(total, size, inverse, full):
    """L = (total / size) * (full / inverse), with one division."""
    return total * full / (size * inverse) if full > 0 else 0.0


@no_type_check
@njit(cache=True, nogil=True)
def _tabulate(table, k, other, own):
    """Row k: the inverse of block k's size one member fewer, as it is, and one member more."""
    for change in range(3):
        table[k, change] = _inverse(other[k] * (own[k] + change - 1))


@no_type_check
@njit(cache=True, nogil=True)
def _best_label(sums, a, other, table, total, size):
    """The label other than ``a`` that gives an item the highest L, and that L: O(1) a label."""
    # Summed afresh: subtracting a small block's inverse would cancel what is left.
    inverse, full = table[a, 0], int(table[a, 0] > 0)
    for k in range(len(other)):
        if k != a:
            inverse += table[k, 1]
            full += table[k, 1] > 0
    best, best_value = a, -np.inf
    for b in range(len(other)):
        if b != a:
            value = _value(
                total + (sums[b] - sums[a]),
                size - other[a] + other[b],
                inverse - table[b, 1] + table[b, 2],
                full - (table[b, 1] > 0) + (table[b, 2] > 0),
            )
            if value > best_value:
                best, best_value = b, value
    return best, best_value


@no_type_check
@njit(cache=True, nogil=True)
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
    size = (other * own).sum()
    table = np.empty((len(other), 3))
    for k in range(len(other)):
        _tabulate(table, k, other, own)
    current = _value(total, size, table[:, 1].sum(), (table[:, 1] > 0).sum())
    n_moved = 0
    for item in order:
        a = labels[item]
        b, value = _best_label(sums[item], a, other, table, total, size)
        if value - current > min_gain:
            total += sums[item, b] - sums[item, a]
            size += other[b] - other[a]
            own[a] -= 1
            own[b] += 1
            labels[item] = b
            _tabulate(table, a, other, own)
            _tabulate(table, b, other, own)
            current = _value(total, size, table[:, 1].sum(), (table[:, 1] > 0).sum())
            n_moved += 1
    return current, n_moved


@no_type_check
@njit(cache=True, nogil=True)
def _add(total, values, sign):
    """Add a vector to another. A loop of its own over whole arrays, which compiles to SIMD code."""
    for j in range(values.shape[0]):
        total[j] += sign * values[j]


@no_type_check
def _unit_sums(matrix, sample_labels, n_modules):
    """Each unit's activation summed over each label's samples: ``[units, modules]``."""
    n_samples, n_units = matrix.shape
    sums = np.empty((n_units, n_modules))
    for block in prange((n_units + _COLUMN_BLOCK - 1) // _COLUMN_BLOCK):
        start = block * _COLUMN_BLOCK
        stop = min(start + _COLUMN_BLOCK, n_units)
        partial = np.zeros((n_modules, stop - start))
        for i in range(n_samples):
            _add(partial[sample_labels[i]], matrix[i, start:stop], 1.0)
        sums[start:stop] = partial.T
    return sums


@no_type_check
def _sample_sums(matrix, unit_labels, n_modules):
    """Each sample's activation summed over each label's units: ``[samples, modules]``."""
    n_samples, n_units = matrix.shape
    sums = np.zeros((n_samples, n_modules))
    for i in prange(n_samples):
        for j in range(n_units):
            sums[i, unit_labels[j]] += matrix[i, j]
    return sums


@no_type_check
def _shift_unit_sums(sums, matrix, moved, before, after):
    """Bring ``unit_sums`` up to date after some samples moved."""
    n_units, n_modules = sums.shape
    for block in prange((n_units + _COLUMN_BLOCK - 1) // _COLUMN_BLOCK):
        start = block * _COLUMN_BLOCK
        stop = min(start + _COLUMN_BLOCK, n_units)
        change = np.zeros((n_modules, stop - start))
        for m in range(len(moved)):
            i = moved[m]
            _add(change[before[i]], matrix[i, start:stop], -1.0)
            _add(change[after[i]], matrix[i, start:stop], 1.0)
        sums[start:stop] += change.T


@no_type_check
def _shift_sample_sums(sums, matrix, moved, before, after):
    """Bring ``sample_sums`` up to date after some units moved."""
    for i in prange(matrix.shape[0]):
        for m in range(len(moved)):
            j = moved[m]
            sums[i, before[j]] -= matrix[i, j]
            sums[i, after[j]] += matrix[i, j]


@dataclass(frozen=True)
class Kernels:
    """The sums, compiled for all cores or for one."""

    unit_sums: Callable[..., Any]
    sample_sums: Callable[..., Any]
    shift_unit_sums: Callable[..., Any]
    shift_sample_sums: Callable[..., Any]


def _compiled(parallel: bool) -> Kernels:
    compile_ = njit(parallel=parallel, cache=True, nogil=True)
    return Kernels(
        compile_(_unit_sums),
        compile_(_sample_sums),
        compile_(_shift_unit_sums),
        compile_(_shift_sample_sums),
    )


PARALLEL = _compiled(parallel=True)
SERIAL = _compiled(parallel=False)
"""For threads of our own, each with a search of its own: numba's own threads may not be nested."""
