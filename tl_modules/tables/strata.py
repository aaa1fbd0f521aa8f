"""Strata of similar values, and random sets that keep a given set's share of each stratum."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Int


def rank_strata(
    values: Float[np.ndarray, " values"], smallest: int = 8
) -> Int[np.ndarray, " values"]:
    """Divide values into strata of similar values, by rank.

    Strata are small at both ends, where values lie far apart. From either end inwards they hold
    ``smallest`` values, twice as many, four times as many and so on, but at most an eighth of all
    values. The values in the middle make one stratum.

    Args:
        values: The values.
        smallest: Size of the first and of the last stratum. Fewer than ``3 * smallest`` values
            make one stratum.

    Returns:
        Each value's stratum, numbered from 0 for the lowest values.

    >>> np.bincount(rank_strata(np.arange(200.0))).tolist()
    [8, 16, 25, 25, 52, 25, 25, 16, 8]
    """
    n_values = len(values)
    largest = max(n_values // 8, smallest)
    sizes: list[int] = []
    size = smallest
    while 2 * (sum(sizes) + size) + smallest <= n_values:
        sizes.append(size)
        size = min(2 * size, largest)
    sizes = [*sizes, n_values - 2 * sum(sizes), *sizes[::-1]]
    numbers = np.empty(n_values, dtype=np.int64)
    numbers[np.argsort(values, kind="stable")] = np.repeat(np.arange(len(sizes)), sizes)
    return numbers


def draw_like(
    strata: Sequence[Int[np.ndarray, " _members"]],
    chosen: Bool[np.ndarray, " things"],
    generator: np.random.Generator,
) -> Int[np.ndarray, " drawn"]:
    """Draw a random set with as many members of each stratum as a given set.

    The two sets may overlap. If the given set was itself drawn in this way, it is exchangeable with
    the sets drawn here, and a p-value against them is valid. The draw permutes each stratum, and
    takes what comes to the given set's places. One state of the generator therefore gives disjoint
    sets for disjoint given sets, whatever these are.

    Args:
        strata: The members of each stratum.
        chosen: A mask of the given set.
        generator: The random generator.

    Returns:
        The drawn members, ascending.

    >>> strata = [np.arange(3), np.arange(3, 100)]
    >>> drawn = draw_like(strata, np.arange(100) < 5, np.random.default_rng(0))
    >>> len(drawn), drawn[:3].tolist()
    (5, [0, 1, 2])
    """
    drawn = [generator.permutation(members)[chosen[members]] for members in strata]
    return np.sort(np.concatenate([np.empty(0, dtype=np.int64), *drawn]))
