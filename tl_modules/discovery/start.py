"""The labels from which IterD starts."""

from typing import Literal, get_args

import numpy as np
from jaxtyping import Float, Int

from tl_modules.discovery.products import Products

N_COMPONENTS = 16
"""The paper's number of principal components."""

N_RESTARTS = 10
"""Number of restarts of the balanced k-means."""

N_SPECTRAL = 2000
"""Largest number of samples in a spectral clustering, whose memory grows with its square."""

StartKind = Literal["kmeans", "random", "spectral"]
START_KINDS: tuple[StartKind, ...] = get_args(StartKind)
"""``kmeans``: balanced k-means, as in the paper. ``random``: balanced random labels. ``spectral``:
spectral clustering of the samples."""

_Points = Float[np.ndarray, "samples components"]


def principal_components(products: Products, seed: int, n_modules: int = 0) -> _Points:
    """The samples' coordinates on the first 16 or K principal components, which starts cluster.

    Args:
        products: The normalised matrix.
        seed: Seed of the randomised PCA of a large matrix.
        n_modules: K, if at least K components are wanted.

    Returns:
        Coordinates, float64, shape ``[samples, at most max(16, K)]``.
    """
    n_components = min(max(N_COMPONENTS, n_modules), *products.shape)
    return products.principal_components(n_components, seed).astype(np.float64)


def start_labels(
    points: _Points, kind: StartKind, n_modules: int, seed: int
) -> Int[np.ndarray, " samples"]:
    """Start labels of the samples.

    Args:
        points: The samples' principal components.
        kind: One of ``START_KINDS``. ``"kmeans"`` is the best of 10 restarts of k-means with
            clusters of ``floor(N/K)`` to ``ceil(N/K)`` samples (Bradley, Bennett & Demiriz 2000).
        n_modules: K.
        seed: Seed of the clustering.

    Returns:
        Each sample's cluster.
    """
    if kind == "random":
        order = np.random.default_rng(seed).permutation(len(points))
        return (order % n_modules).astype(np.int64)
    if kind == "kmeans":
        return _balanced_kmeans(points, n_modules, seed)
    return _spectral_of_some(points, n_modules, seed)


def _balanced_kmeans(points: _Points, n_modules: int, seed: int) -> Int[np.ndarray, " samples"]:
    from k_means_constrained import KMeansConstrained  # slow to import, and only a fit needs it

    clustering = KMeansConstrained(
        n_clusters=n_modules,
        size_min=len(points) // n_modules,
        size_max=-(-len(points) // n_modules),
        n_init=N_RESTARTS,
        random_state=seed,
    )
    return np.asarray(clustering.fit(points).labels_, dtype=np.int64)


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


def strongest_labels(
    sums: Float[np.ndarray, "items modules"], others: Int[np.ndarray, " others"]
) -> Int[np.ndarray, " items"]:
    """For each item, the label whose members drive it most on average.

    Args:
        sums: Each item's activation summed over each label's members.
        others: The members' labels.

    Returns:
        One label per item; a label without members is never used.
    """
    counts = np.bincount(others, minlength=sums.shape[1])
    means = np.where(counts > 0, sums / np.maximum(counts, 1), -np.inf)
    return means.argmax(axis=1).astype(np.int64)
