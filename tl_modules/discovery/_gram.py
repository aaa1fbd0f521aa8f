"""Products of a matrix in memory with its own transpose, block by block of units."""

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import pairwise

import numpy as np
from jaxtyping import Float
from numba import get_num_threads

from tl_modules.discovery.lanes import lane_bounds, sum_in_pairs

_Matrix = Float[np.ndarray, "samples units"]
_Basis = Float[np.ndarray, "samples width"]
_Means = Float[np.ndarray, " units"]

_BLOCK = 512
"""Units in a block, whose copy fits into a core's cache."""


def gram_times(matrix: _Matrix, means: _Means, scale: float, basis: _Basis) -> _Basis:
    """Multiply by Z Z', where Z is the matrix, centred and scaled.

    Blocks of units are multiplied in the matrix's own precision, and their products are added in
    float64 by lanes (``lanes.py``). The bits do not depend on the number of threads, if BLAS runs
    in one.

    Args:
        matrix: The matrix, float32 or float64.
        means: Each unit's mean.
        scale: Values are multiplied by this.
        basis: What is multiplied.
    """
    narrow = basis.astype(matrix.dtype)
    lanes = pairwise(lane_bounds(matrix.shape[1], 1)[0].tolist())
    with ThreadPoolExecutor(get_num_threads()) as pool:
        parts: Iterable[_Basis] = pool.map(partial(_lane, matrix, means, scale, narrow), lanes)
        return sum_in_pairs(list(parts))


def _lane(
    matrix: _Matrix, means: _Means, scale: float, basis: _Basis, lane: tuple[int, int]
) -> _Basis:
    """The product of one lane's units."""
    total = np.zeros(basis.shape)
    for start in range(*lane, _BLOCK):
        stop = min(start + _BLOCK, lane[1])
        block = matrix[:, start:stop] - means[start:stop]
        if scale != 1.0:
            block *= scale
        total += block @ (block.T @ basis)
    return total
