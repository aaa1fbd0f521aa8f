"""Lanes of columns, which make a sum independent of the processes and threads that share it."""

import numpy as np
from jaxtyping import Int

N_LANES = 16
"""Columns are summed in this number of lanes, and the lanes' sums are added in pairs. The order of
additions is the same for every number of threads and processes, and so is every bit of a sum."""


def n_with_lanes(world_size: int) -> int:
    """How many processes get lanes: a power of two, so that lanes pair up inside each process."""
    return 1 << (min(world_size, N_LANES).bit_length() - 1)


def lane_bounds(n_units: int, world_size: int) -> list[Int[np.ndarray, " bounds"]]:
    """The first column of each process's lanes, and last the column after them.

    A process beyond the power of two has a single bound, and so no lane.
    """
    bounds = np.linspace(0, n_units, N_LANES + 1).astype(np.int64)
    n_sharing = n_with_lanes(world_size)
    step = N_LANES // n_sharing
    by_rank = [bounds[step * rank : step * (rank + 1) + 1] for rank in range(n_sharing)]
    return by_rank + [bounds[-1:]] * (world_size - n_sharing)


def sum_in_pairs(parts: list[np.ndarray]) -> np.ndarray:
    """The sum of a power of two of arrays, added in pairs.

    The tree of additions is the same whether the lanes lie in one process or in several.
    """
    while len(parts) > 1:
        parts = [one + other for one, other in zip(parts[::2], parts[1::2], strict=True)]
    return parts[0]
