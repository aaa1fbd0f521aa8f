"""The labels from which IterD starts."""

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from jaxtyping import Float, Int

from tl_modules.discovery.balanced_kmeans import balanced_kmeans
from tl_modules.discovery.descent import descend
from tl_modules.discovery.products import InMemory, Products

N_COMPONENTS = 16
"""The paper's number of principal components."""

N_RESTARTS = 10
"""Number of restarts of k-means."""

_TRIAL_ROUNDS = 10
"""Rounds of IterD on some of the units after which restarts are compared."""

N_SPECTRAL = 2000
"""Largest number of samples in a spectral clustering, whose memory grows with its square."""

StartKind = Literal["kmeans", "random", "spectral"]
START_KINDS: tuple[StartKind, ...] = get_args(StartKind)
"""``kmeans``: balanced k-means, then IterD on some of the units. ``random``: balanced random
labels. ``spectral``: spectral clustering of the samples."""

_Points = Float[np.ndarray, "samples components"]


@dataclass(frozen=True)
class StartPoints:
    """What starts cluster: the samples, seen through some of the units."""

    some: InMemory
    """The normalised matrix of some units, spread evenly over all."""

    points: _Points
    """The samples' coordinates on its first 16 principal components."""


def start_points(products: Products, seed: int, *, parallel: bool = True) -> StartPoints:
    """What the starts of a search cluster; call it inside ``one_thread``.

    Args:
        products: The normalised matrix.
        seed: Seed of the components.
        parallel: Whether sums over the units may use all cores, which changes no bit.
    """
    some = InMemory(products.some_units(), parallel=parallel)
    return StartPoints(some, principal_components(some, seed))


def principal_components(products: Products, seed: int, n_modules: int = 0) -> _Points:
    """The samples' coordinates on the first 16 or K principal components.

    Args:
        products: The normalised matrix.
        seed: Seed of the first directions.
        n_modules: K, if at least K components are wanted.

    Returns:
        Coordinates, float64, shape ``[samples, at most max(16, K)]``.
    """
    n_components = min(max(N_COMPONENTS, n_modules), *products.shape)
    return products.principal_components(n_components, seed).astype(np.float64)


def start_labels(
    given: StartPoints, kind: StartKind, n_modules: int, seed: int
) -> Int[np.ndarray, " samples"]:
    """Start labels of the samples.

    Args:
        given: What is clustered.
        kind: One of ``START_KINDS``.
        n_modules: K.
        seed: Seed of the clustering.

    Returns:
        Each sample's cluster.
    """
    if kind == "random":
        order = np.random.default_rng(seed).permutation(len(given.points))
        return (order % n_modules).astype(np.int64)
    if kind == "kmeans":
        return _best_restart(given, n_modules, seed)
    return _spectral_of_some(given.points, n_modules, seed)


def _best_restart(given: StartPoints, n_modules: int, seed: int) -> Int[np.ndarray, " samples"]:
    """Labels from balanced k-means and IterD on some of the units: the best of 10 restarts.

    Restarts are compared by L. The restart with the least within-cluster distances, which k-means
    itself would keep, often leads IterD to a lower L than others do.
    """
    generator = np.random.default_rng(seed)
    tried = []
    for _ in range(N_RESTARTS):
        labels = balanced_kmeans(given.points, n_modules, generator)
        tried.append(descend(given.some, n_modules, labels, max_rounds=_TRIAL_ROUNDS, seed=seed))
    return max(tried, key=lambda result: result.history[-1]).sample_labels


def _spectral_of_some(points: _Points, n_modules: int, seed: int) -> Int[np.ndarray, " samples"]:
    """Spectral clustering of at most 2,000 samples; each other sample gets its nearest one's label.

    Args:
        points: The samples' principal components.
        n_modules: K.
        seed: Seed of the draw and of the clustering.
    """
    from sklearn.metrics import pairwise_distances_argmin  # slow to import, and only a fit needs it

    drawn = np.random.default_rng(seed).permutation(len(points))[: max(N_SPECTRAL, n_modules)]
    labels = spectral_labels(points[drawn], n_modules, seed)
    return labels[pairwise_distances_argmin(points, points[drawn])]


def spectral_labels(points: _Points, n_modules: int, seed: int) -> Int[np.ndarray, " samples"]:
    """Spectral clustering under a Gaussian kernel as wide as the data (scikit-learn's "scale").

    Args:
        points: The points to cluster.
        n_modules: K.
        seed: Seed of the clustering.

    Returns:
        Each point's cluster.
    """
    # scikit-learn needs more points than clusters.
    if n_modules >= len(points):
        return np.arange(len(points)) % n_modules
    # Slow to import, and only a fit needs them.
    from sklearn.cluster import SpectralClustering
    from sklearn.metrics.pairwise import rbf_kernel

    gamma = 1.0 / (points.shape[1] * float(points.var()) or 1.0)
    # Affinities are computed here, because fit() takes a square array of points for affinities
    # and warns.
    clustering = SpectralClustering(n_modules, affinity="precomputed", random_state=seed)
    affinities = rbf_kernel(points, gamma=gamma)
    return np.asarray(clustering.fit(affinities).labels_, dtype=np.int64)
