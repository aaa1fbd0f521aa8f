"""The compiled inner loops of IterD.

``descent.py`` calls them; ``tests/discovery/oracles.py`` holds plain versions that tests compare
them with. All sums are float64. Each iteration of a parallel loop writes its own rows or columns,
in a fixed order, so results do not depend on the number of threads.
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
    """1 / size; 0 for an empty block, which the harmonic mean leaves out."""
    return 1.0 / size if size > 0 else 0.0


@no_type_check
@njit(cache=True, nogil=True)
def _value(total, size, inverse, full):
    """L = (total / size) * (full / inverse), computed with one division.

    ``total`` is the sum of all blocks, ``size`` their number of entries, ``full`` the number of
    blocks that are not empty, ``inverse`` the sum of their inverse sizes.
    """
    return total * full / (size * inverse) if full > 0 else 0.0


@no_type_check
@njit(cache=True, nogil=True)
def _tabulate(tables, k, other, n_members):
    """Tabulate block k's inverse size with one member fewer, now, and with one member more.

    The fourth table is 1 if one more member makes an empty block non-empty. With these tables a
    candidate move costs a few additions.
    """
    shrunk, now, grown, change = tables
    shrunk[k] = _inverse(other[k] * (n_members[k] - 1))
    now[k] = _inverse(other[k] * n_members[k])
    grown[k] = _inverse(other[k] * (n_members[k] + 1))
    change[k] = 1.0 if grown[k] > 0.0 and now[k] == 0.0 else 0.0


@no_type_check
@njit(cache=True, nogil=True)
def _without(tables, a):
    """The sum of inverse sizes, and the number of blocks, once label a has lost a member.

    The sum is computed anew: subtracting the large inverse of a small block would cancel the digits
    of the rest.
    """
    shrunk, now, _, _ = tables
    inverse, full = shrunk[a], 1.0 if shrunk[a] > 0.0 else 0.0
    for k in range(len(now)):
        if k != a:
            inverse += now[k]
            full += now[k] > 0.0
    return inverse, full


@no_type_check
@njit(cache=True, nogil=True, error_model="numpy")
def _candidates(values, sums, members, tables, total, size, inverse, full):
    """Write into ``values`` what L would be if the item joined each label.

    The loop has no branch, so that it compiles to SIMD code. The value of the item's own label is
    meaningless and may be a division by zero; the caller skips it.
    """
    _, now, grown, change = tables
    for b in range(values.shape[0]):
        sizes = (size + members[b]) * (inverse - now[b] + grown[b])
        values[b] = (total + sums[b]) * (full + change[b]) / sizes


@no_type_check
@njit(cache=True, nogil=True)
def sweep(sums, labels, order, other, min_gain):
    """Visit items once, and move each to the label that raises L most.

    Items are units or samples. The other kind is then samples or units, and does not move.

    Args:
        sums: ``[items, modules]``: each item's activation summed over each label's members of the
            other kind.
        labels: ``[items]``, changed in place.
        order: ``[items]``: the visiting order.
        other: ``[modules]``: number of members of the other kind with each label.
        min_gain: A move must raise L by more than this.

    Returns:
        L after the sweep, and the number of items that moved.
    """
    n_modules = len(other)
    n_members = np.zeros(n_modules, dtype=np.int64)
    total = 0.0
    for item in range(len(labels)):
        n_members[labels[item]] += 1
        total += sums[item, labels[item]]
    # Block k has other[k] * n_members[k] entries, so an item that joins label k adds other[k].
    size = float((other * n_members).sum())
    members = other.astype(np.float64)
    tables = (np.empty(n_modules), np.empty(n_modules), np.empty(n_modules), np.empty(n_modules))
    now = tables[1]
    for k in range(n_modules):
        _tabulate(tables, k, other, n_members)
    current = _value(total, size, now.sum(), (now > 0.0).sum())
    # What _without returns for each label, computed when first needed; -1 marks a missing value.
    # A move changes block sizes and so empties the cache. Late rounds move few items, and most
    # items then find their label's value in it.
    inverse, full = np.full(n_modules, -1.0), np.zeros(n_modules)
    values = np.empty(n_modules)
    n_moved = 0
    for item in order:
        a = labels[item]
        row = sums[item]
        if inverse[a] < 0.0:
            inverse[a], full[a] = _without(tables, a)
        # The blocks without the item; each candidate then adds it to one label.
        left = (total - row[a], size - members[a])
        if full[a] > 0.0:
            _candidates(values, row, members, tables, left[0], left[1], inverse[a], full[a])
        else:
            # No other block is left: L depends on the joined block alone, which may be empty.
            for b in range(n_modules):
                values[b] = _value(
                    left[0] + row[b], left[1] + members[b], tables[2][b], tables[3][b]
                )
        best, best_value = a, -np.inf
        for b in range(n_modules):
            if b != a and values[b] > best_value:
                best, best_value = b, values[b]
        if best_value - current > min_gain:
            total += row[best] - row[a]
            size += members[best] - members[a]
            n_members[a] -= 1
            n_members[best] += 1
            labels[item] = best
            # Only the two blocks that changed are tabulated again.
            _tabulate(tables, a, other, n_members)
            _tabulate(tables, best, other, n_members)
            current = _value(total, size, now.sum(), (now > 0.0).sum())
            inverse[:] = -1.0
            n_moved += 1
    return current, n_moved


@no_type_check
@njit(cache=True, nogil=True)
def _add(total, values, sign):
    """Add a vector to another one. A separate loop over whole arrays compiles to SIMD code."""
    for j in range(values.shape[0]):
        total[j] += sign * values[j]


@no_type_check
def _unit_sums(matrix, sample_labels, n_modules):
    """Each unit's activation summed over each label's samples: ``[units, modules]``."""
    n_samples, n_units = matrix.shape
    sums = np.empty((n_units, n_modules))
    # Columns are taken in blocks whose sums fit into a core's cache.
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
    for block in prange((n_samples + 3) // 4):
        first = 4 * block
        # Four rows at a time: additions to one place must wait for each other, but additions to
        # four places overlap in the processor.
        if first + 4 <= n_samples:
            one, two, three, four = (
                matrix[first],
                matrix[first + 1],
                matrix[first + 2],
                matrix[first + 3],
            )
            partial = np.zeros((n_modules, 4))
            for j in range(n_units):
                place = partial[unit_labels[j]]
                place[0] += one[j]
                place[1] += two[j]
                place[2] += three[j]
                place[3] += four[j]
            sums[first : first + 4] = partial.T
        else:
            for i in range(first, n_samples):
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
    """The functions that sum by label, compiled for all cores or for one core."""

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
"""For searches that run in Python threads: numba's own threads cannot be nested in them."""
