"""k-means with clusters of equal size."""

import numpy as np
from jaxtyping import Float, Int

from tl_modules.discovery._assignment import assign

_Points = Float[np.ndarray, "points axes"]
_Centres = Float[np.ndarray, "clusters axes"]

_MAX_ROUNDS = 100
_LEAST_GAIN = 1e-6
"""A round has to lower the within-cluster sum of squares by this share of it."""


def balanced_kmeans(
    points: _Points, n_clusters: int, generator: np.random.Generator
) -> Int[np.ndarray, " points"]:
    """One run of k-means whose clusters have ``floor(N/K)`` to ``ceil(N/K)`` points.

    Centres start by k-means++ (Arthur & Vassilvitskii 2007). Each round assigns the points at the
    least sum of squared distances that these sizes allow, and moves the centres to the means
    (Bradley, Bennett & Demiriz 2000).

    Args:
        points: The points.
        n_clusters: K, at most N.
        generator: Draws the first centres.

    Returns:
        Each point's cluster.
    """
    smallest, largest = len(points) // n_clusters, -(-len(points) // n_clusters)
    centres = _first_centres(points, n_clusters, generator)
    rows = np.arange(len(points))
    before = np.inf
    labels = np.zeros(len(points), dtype=np.int64)
    for _ in range(_MAX_ROUNDS):
        costs = _squared_distances(points, centres)
        labels = assign(costs, smallest, largest)
        now = float(costs[rows, labels].sum())
        if now >= before * (1 - _LEAST_GAIN):
            break
        before = now
        member = labels == np.arange(n_clusters)[:, None]
        centres = member.astype(float) @ points / member.sum(axis=1, keepdims=True)
    return labels


def _first_centres(points: _Points, n_clusters: int, generator: np.random.Generator) -> _Centres:
    """Draw points with a chance that grows with the squared distance from those drawn before.

    Each time a few are drawn, and the one that leaves the least sum of distances is kept.
    """
    n_tried = 2 + int(np.log(n_clusters))
    drawn = [int(generator.integers(len(points)))]
    nearest = _squared_distances(points, points[drawn])[:, 0]
    for _ in range(n_clusters - 1):
        summed = nearest.cumsum()
        tried = np.searchsorted(summed, generator.random(n_tried) * summed[-1])
        tried = np.minimum(tried, len(points) - 1)
        left = np.minimum(nearest[:, None], _squared_distances(points, points[tried]))
        best = int(left.sum(axis=0).argmin())
        drawn.append(int(tried[best]))
        nearest = left[:, best]
    return points[drawn]


def _squared_distances(points: _Points, centres: _Centres) -> Float[np.ndarray, "points clusters"]:
    """Squared distances of all points from all centres."""
    lengths = (points**2).sum(axis=1)[:, None] + (centres**2).sum(axis=1)
    return np.maximum(lengths - 2.0 * points @ centres.T, 0.0)
