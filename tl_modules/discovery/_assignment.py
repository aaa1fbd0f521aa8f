"""The compiled assignment of items to clusters of limited sizes at the least cost."""

from typing import no_type_check

import numpy as np
from numba import njit

_ROUNDING = 1e-12
"""Gains below this share of the largest cost are rounding errors."""


@no_type_check
@njit(cache=True, nogil=True)
def assign(costs, smallest, largest):
    """Assign each item to a cluster so that the sum of costs is least.

    Each item first joins its cheapest cluster. Then items move from clusters that are too large,
    and into clusters that are too small, along the cheapest path of moves: the successive shortest
    paths of a minimum-cost flow (Ahuja, Magnanti & Orlin 1993, section 9.7), here over the clusters
    alone. An edge from one cluster to another is the item that moves at the least extra cost.

    Args:
        costs: ``[items, clusters]``.
        smallest: Least size of a cluster.
        largest: Greatest size of a cluster.

    Returns:
        Each item's cluster.
    """
    n_items, n_clusters = costs.shape
    labels = np.empty(n_items, dtype=np.int64)
    sizes = np.zeros(n_clusters, dtype=np.int64)
    for i in range(n_items):
        labels[i] = np.argmin(costs[i])
        sizes[labels[i]] += 1
    tiny = _ROUNDING * np.abs(costs).max()
    extra = np.empty((n_clusters, n_clusters))
    item = np.empty((n_clusters, n_clusters), dtype=np.int64)
    for a in range(n_clusters):
        _cheapest_moves(costs, labels, a, extra, item)
    while True:
        too_large, too_small = (sizes > largest).any(), (sizes < smallest).any()
        begins = sizes > largest if too_large else sizes > smallest
        ends = sizes < smallest if too_small else sizes < largest
        length, before = _shortest_paths(extra, begins, tiny)
        last = -1
        for b in range(n_clusters):
            if ends[b] and before[b] >= 0 and (last < 0 or length[b] < length[last]):
                last = b
        # Once all sizes are allowed, only moves that save costs are left.
        if last < 0 or (not too_large and not too_small and length[last] >= -tiny):
            return labels
        sizes[last] += 1
        b = last
        while before[b] >= 0:
            labels[item[before[b], b]] = b
            b = before[b]
        sizes[b] -= 1
        b = last
        while b >= 0:
            _cheapest_moves(costs, labels, b, extra, item)
            b = before[b]


@no_type_check
@njit(cache=True, nogil=True)
def _cheapest_moves(costs, labels, a, extra, item):
    """Find, for each other cluster, the item of cluster ``a`` that joins it at the least cost."""
    extra[a, :] = np.inf
    for i in range(len(labels)):
        if labels[i] == a:
            for b in range(costs.shape[1]):
                more = costs[i, b] - costs[i, a]
                if more < extra[a, b]:
                    extra[a, b] = more
                    item[a, b] = i


@no_type_check
@njit(cache=True, nogil=True)
def _shortest_paths(extra, begins, tiny):
    """The shortest path to each cluster from any of those in ``begins`` (Bellman & Ford).

    Returns:
        The paths' lengths, and each cluster's predecessor; -1 if it has none.
    """
    n_clusters = len(begins)
    length = np.where(begins, 0.0, np.inf)
    before = np.full(n_clusters, -1, dtype=np.int64)
    for _ in range(n_clusters):
        changed = False
        for a in range(n_clusters):
            for b in range(n_clusters):
                if a != b and length[a] + extra[a, b] < length[b] - tiny:
                    length[b] = length[a] + extra[a, b]
                    before[b] = a
                    changed = True
        if not changed:
            break
    return length, before
