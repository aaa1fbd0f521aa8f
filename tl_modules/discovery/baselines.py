"""Baselines: the paper's clusterings of the units, and further ways to group them."""

from collections.abc import Callable
from typing import Any, Literal, get_args

import numpy as np
from jaxtyping import Float, Int

from tl_modules.activations.matrix import ActivationMatrix
from tl_modules.discovery.descent import IterDResult, strongest_labels
from tl_modules.discovery.normalised_input import scored_matrix
from tl_modules.discovery.objectives import objective
from tl_modules.discovery.partition import module_set_of
from tl_modules.discovery.products import InMemory, pca
from tl_modules.discovery.start import N_COMPONENTS, spectral_labels
from tl_modules.discovery.topics_first import kmeans_labels
from tl_modules.discovery.unit_groups import ica_labels, leiden_labels, nmf_labels
from tl_modules.errors import check_seed
from tl_modules.modules.module_set import ModuleSet
from tl_modules.runtime.arguments import checked

N_PRECLUSTERS = 10_000
"""Number of pre-clusters for the methods that compare all pairs of points, instead of the units."""

Baseline = Literal[
    "kmeans",
    "minibatch_kmeans",
    "agglomerative",
    "spectral",
    "spectral_coclustering",
    "kmeans_argmax",
    "ica",
    "nmf",
    "leiden",
]
BASELINES: tuple[Baseline, ...] = get_args(Baseline)

_RESTARTS: dict[str, Any] = {"n_init": 10}

_Points = Float[np.ndarray, "points axes"]
_Labels = Int[np.ndarray, " points"]


@checked
def discover_baseline(
    acts: ActivationMatrix, method: Baseline, n_modules: int, seed: int = 0
) -> ModuleSet:
    """Discover modules with a standard clustering method, as a baseline for ``discover``.

    The first five methods are those of arXiv 2603.17823. Units are clustered by their z-scores
    over the samples, after PCA to 16 dimensions, and each sample gets the module that it drives
    most. ``agglomerative``, ``spectral``, ``spectral_coclustering`` and ``leiden`` cluster at most
    10,000 pre-clusters of units. Co-clustering needs values that are not negative, so it clusters
    the pre-clusters' mean |activation|. It also labels the samples itself.

    ``kmeans_argmax`` clusters the samples instead, after PCA to 16 dimensions, and each unit gets
    the cluster on which its mean is highest. ``ica`` and ``nmf`` give each unit the component that
    it loads on most. ``leiden`` finds communities in a graph of units that correlate, and needs the
    extra ``leiden``.

    Args:
        acts: The activations.
        method: ``"kmeans"``, ``"minibatch_kmeans"``, ``"agglomerative"``, ``"spectral"``,
            ``"spectral_coclustering"``, ``"kmeans_argmax"``, ``"ica"``, ``"nmf"`` or ``"leiden"``.
        n_modules: K.
        seed: Seed of the clustering.

    Returns:
        The modules. Some may be empty; B and L are then 0.

    Raises:
        ModulesError: If the method is not valid, its package is missing, or K is out of range.

    >>> planted = np.kron(np.eye(2), np.ones((10, 8))) + np.arange(16) / 100
    >>> acts = ActivationMatrix.from_arrays(planted)
    >>> discover_baseline(acts, "kmeans", 2).to_frame()["n_units"].tolist()
    [8, 8]
    """
    check_seed(seed)
    scored, products = scored_matrix(acts, n_modules)
    matrix = products.matrix
    if method == "spectral_coclustering":
        # Raw values are not negative. Normalised ones are shifted so that each unit's least is 0.
        positive = acts.values if acts.normaliser is None else matrix - matrix.min(axis=0)
        samples, units = _cocluster(matrix, positive, n_modules, seed)
    elif method == "kmeans_argmax":
        samples = kmeans_labels(_principal_components(matrix, seed), n_modules, seed)
        units = strongest_labels(products.unit_sums(samples, n_modules), samples)
    else:
        units = _unit_labels(matrix, method, n_modules, seed)
        samples = strongest_labels(products.sample_sums(units, n_modules), units)
    value = objective(matrix, samples, units, n_modules)
    result = IterDResult(samples, units, value, history=(value.L,), converged=True)
    return module_set_of(
        acts, scored.normaliser, products, result, n_modules, seed=seed, method=method
    )


def _unit_labels(
    matrix: Float[np.ndarray, "samples units"], method: Baseline, n_modules: int, seed: int
) -> _Labels:
    if method in _FACTORISATIONS:
        return _FACTORISATIONS[method](matrix, n_modules, seed)
    return _CLUSTERINGS[method](_principal_components(matrix.T, seed), n_modules, seed)


def _principal_components(matrix: Float[np.ndarray, "rows columns"], seed: int) -> _Points:
    return pca(matrix, min(N_COMPONENTS, *matrix.shape), seed)


def _kmeans(points: _Points, n_modules: int, seed: int) -> _Labels:
    from sklearn.cluster import KMeans

    return _int64(KMeans(n_modules, random_state=seed, **_RESTARTS).fit(points).labels_)


def _minibatch_kmeans(points: _Points, n_modules: int, seed: int) -> _Labels:
    from sklearn.cluster import MiniBatchKMeans

    return _int64(MiniBatchKMeans(n_modules, random_state=seed, **_RESTARTS).fit(points).labels_)


def _agglomerative(points: _Points, n_modules: int, seed: int) -> _Labels:
    from sklearn.cluster import AgglomerativeClustering

    groups, centres = _preclusters(points, seed)
    return _int64(AgglomerativeClustering(n_modules).fit(centres).labels_)[groups]


def _spectral(points: _Points, n_modules: int, seed: int) -> _Labels:
    groups, centres = _preclusters(points, seed)
    return spectral_labels(centres, n_modules, seed)[groups]


def _leiden(points: _Points, n_modules: int, seed: int) -> _Labels:
    groups, centres = _preclusters(points, seed)
    return leiden_labels(centres, n_modules, seed)[groups]


def _int64(labels: Any) -> _Labels:
    return np.asarray(labels, dtype=np.int64)


_CLUSTERINGS: dict[str, Callable[[_Points, int, int], _Labels]] = {
    "kmeans": _kmeans,
    "minibatch_kmeans": _minibatch_kmeans,
    "agglomerative": _agglomerative,
    "spectral": _spectral,
    "leiden": _leiden,
}

_FACTORISATIONS: dict[str, Callable[[Float[np.ndarray, "samples units"], int, int], _Labels]] = {
    "ica": ica_labels,
    "nmf": nmf_labels,
}


def _cocluster(
    matrix: Float[np.ndarray, "samples units"],
    positive: Float[np.ndarray, "samples units"],
    n_modules: int,
    seed: int,
) -> tuple[Int[np.ndarray, " samples"], Int[np.ndarray, " units"]]:
    """Label samples and units by Dhillon's (2001) spectral co-clustering."""
    from sklearn.cluster import SpectralCoclustering

    groups, _ = _preclusters(_principal_components(matrix.T, seed), seed)
    sums = InMemory(positive).sample_sums(groups, int(groups.max()) + 1)
    means = sums / np.bincount(groups)
    # The method divides by row and column sums, so no sum may be 0.
    fitted = SpectralCoclustering(n_modules, random_state=seed).fit(means + 1e-12)
    return _int64(fitted.row_labels_), _int64(fitted.column_labels_)[groups]


def _preclusters(
    points: _Points, seed: int
) -> tuple[_Labels, Float[np.ndarray, "preclusters axes"]]:
    """Each point's pre-cluster, numbered without gaps, and the pre-clusters' centres."""
    from sklearn.cluster import MiniBatchKMeans

    if len(points) <= N_PRECLUSTERS:
        return np.arange(len(points)), points
    # With this many centres, a better start than one random draw changes little.
    options: dict[str, Any] = {"n_init": 1, "init": "random", "batch_size": 4096, "max_iter": 10}
    fitted = MiniBatchKMeans(N_PRECLUSTERS, random_state=seed, **options).fit(points)
    used, groups = np.unique(fitted.labels_, return_inverse=True)
    return _int64(groups), np.asarray(fitted.cluster_centers_)[used]
