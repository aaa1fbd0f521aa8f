"""The paper's baselines: other ways to group units, through scikit-learn."""

from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from tl_modules.activations.matrix import ActivationMatrix
from tl_modules.discovery.descent import IterDResult
from tl_modules.discovery.normalised_input import scored_matrix
from tl_modules.discovery.objectives import objective
from tl_modules.discovery.partition import module_set_of
from tl_modules.discovery.products import InMemory, pca
from tl_modules.discovery.start import N_COMPONENTS, spectral_labels, strongest_labels
from tl_modules.errors import check_choice, check_seed
from tl_modules.modules.module_set import ModuleSet
from tl_modules.runtime.arguments import checked

N_PRECLUSTERS = 10_000
"""What the methods that need all pairs of points work on instead of every unit."""

BASELINES = ("kmeans", "minibatch_kmeans", "agglomerative", "spectral", "spectral_coclustering")

_RESTARTS: dict[str, Any] = {"n_init": 10}

_Points = Float[np.ndarray, "points axes"]
_Labels = Int[np.ndarray, " points"]


@checked
def discover_baseline(
    acts: ActivationMatrix, method: str, n_modules: int, seed: int = 0
) -> ModuleSet:
    """Group the units by a standard clustering, and give each sample the group it drives most.

    As in arXiv 2603.17823, section on baselines: units are clustered by their z-scores over the
    samples after PCA to 16 dimensions; ``agglomerative``, ``spectral`` and
    ``spectral_coclustering`` work on at most 10,000 pre-clusters of units. Co-clustering takes the
    pre-clusters' mean |activation|, which is not negative, and labels the samples itself.

    Args:
        acts: The activations.
        method: ``"kmeans"``, ``"minibatch_kmeans"``, ``"agglomerative"``, ``"spectral"`` or
            ``"spectral_coclustering"``.
        n_modules: K.
        seed: Seeds the clustering.

    Returns:
        The modules; some may be empty, which makes B and L 0.

    Raises:
        ModulesError: If the method is unknown or K is out of range.
    """
    check_choice("method", method, BASELINES)
    check_seed(seed)
    scored, products = scored_matrix(acts, n_modules)
    matrix = products.matrix
    if method == "spectral_coclustering":
        # Of raw values where there are some: z-scores are negative half of the time.
        positive = acts.values if acts.normaliser is None else matrix - matrix.min(axis=0)
        samples, units = _cocluster(matrix, positive, n_modules, seed)
    else:
        points = _principal_components(matrix.T, seed)
        cluster = _CLUSTERINGS[method]
        units = cluster(points, n_modules, seed)
        samples = strongest_labels(products.sample_sums(units, n_modules), units)
    value = objective(matrix, samples, units, n_modules)
    result = IterDResult(samples, units, value, history=(value.L,), converged=True)
    return module_set_of(
        acts, scored.normaliser, products, result, n_modules, seed=seed, method=method
    )


def _principal_components(matrix: Float[np.ndarray, "rows columns"], seed: int) -> _Points:
    return pca(matrix, min(N_COMPONENTS, *matrix.shape), seed)


def _kmeans(points: _Points, n_modules: int, seed: int) -> _Labels:
    from sklearn.cluster import KMeans

    found = KMeans(n_modules, random_state=seed, **_RESTARTS).fit(points)
    return _int64(found.labels_)


def _minibatch_kmeans(points: _Points, n_modules: int, seed: int) -> _Labels:
    from sklearn.cluster import MiniBatchKMeans

    found = MiniBatchKMeans(n_modules, random_state=seed, **_RESTARTS).fit(points)
    return _int64(found.labels_)


def _agglomerative(points: _Points, n_modules: int, seed: int) -> _Labels:
    from sklearn.cluster import AgglomerativeClustering

    groups, centres = _preclusters(points, seed)
    return _int64(AgglomerativeClustering(n_modules).fit(centres).labels_)[groups]


def _spectral(points: _Points, n_modules: int, seed: int) -> _Labels:
    groups, centres = _preclusters(points, seed)
    return spectral_labels(centres, n_modules, seed)[groups]


def _int64(labels: Any) -> _Labels:
    return np.asarray(labels, dtype=np.int64)


_CLUSTERINGS: dict[str, Callable[[_Points, int, int], _Labels]] = {
    "kmeans": _kmeans,
    "minibatch_kmeans": _minibatch_kmeans,
    "agglomerative": _agglomerative,
    "spectral": _spectral,
}


def _cocluster(
    matrix: Float[np.ndarray, "samples units"],
    positive: Float[np.ndarray, "samples units"],
    n_modules: int,
    seed: int,
) -> tuple[Int[np.ndarray, " samples"], Int[np.ndarray, " units"]]:
    """Labels of samples and units from Dhillon's spectral co-clustering."""
    from sklearn.cluster import SpectralCoclustering

    groups, _ = _preclusters(_principal_components(matrix.T, seed), seed)
    sums = InMemory(positive).sample_sums(groups, int(groups.max()) + 1)
    means = sums / np.bincount(groups)
    found = SpectralCoclustering(n_modules, random_state=seed).fit(means + 1e-12)
    return _int64(found.row_labels_), _int64(found.column_labels_)[groups]


def _preclusters(
    points: _Points, seed: int
) -> tuple[_Labels, Float[np.ndarray, "preclusters axes"]]:
    """Each point's pre-cluster, numbered without gaps, and the pre-clusters' centres."""
    from sklearn.cluster import MiniBatchKMeans

    if len(points) <= N_PRECLUSTERS:
        return np.arange(len(points)), points
    # One random start: there are so many centres that a better one changes little.
    options: dict[str, Any] = {"n_init": 1, "init": "random", "batch_size": 4096, "max_iter": 10}
    found = MiniBatchKMeans(N_PRECLUSTERS, random_state=seed, **options).fit(points)
    used, groups = np.unique(found.labels_, return_inverse=True)
    return _int64(groups), np.asarray(found.cluster_centers_)[used]
