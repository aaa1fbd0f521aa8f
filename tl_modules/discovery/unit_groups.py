"""Baselines beyond the paper's: factors of the matrix, graph communities, topics by k-means."""

import warnings
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from tl_modules.discovery.products import pca
from tl_modules.errors import ModulesError

_Matrix = Float[np.ndarray, "samples units"]
_Points = Float[np.ndarray, "points axes"]

N_NEIGHBOURS = 15
"""Number of neighbours of a point in the graph."""

_LOWEST, _HIGHEST, _N_HALVINGS = 1e-3, 1e3, 20
"""The range of resolutions, and how often the range is halved to get K communities."""


def ica_labels(matrix: _Matrix, n_modules: int, seed: int) -> Int[np.ndarray, " units"]:
    """Give each unit the independent component on which it has the highest loading.

    FastICA (Hyvärinen & Oja 2000) looks for K components of the units that are far from Gaussian.
    A component's sign is arbitrary; its long tail is made positive. K groups of centred units span
    K - 1 directions, so one of the components is noise.
    """
    from sklearn.decomposition import FastICA
    from sklearn.exceptions import ConvergenceWarning

    points = pca(matrix.T, min(n_modules, *matrix.shape), seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # the last iteration's labels count
        fitted = FastICA(whiten="unit-variance", max_iter=500, random_state=seed)
        loadings = np.asarray(fitted.fit_transform(points))
    loadings *= np.where((loadings**3).sum(axis=0) < 0, -1.0, 1.0)
    return loadings.argmax(axis=1).astype(np.int64)


def nmf_labels(matrix: _Matrix, n_modules: int, seed: int) -> Int[np.ndarray, " units"]:
    """Give each unit the component of a non-negative factorisation that it loads on most.

    Each unit is shifted so that its least value is 0 (Lee & Seung 1999). A component's scale is
    arbitrary, so its samples' weights are scaled to a norm of 1.
    """
    from sklearn.decomposition import NMF
    from sklearn.exceptions import ConvergenceWarning

    options: dict[str, Any] = {"n_components": n_modules}  # scikit-learn's types know text only
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # the last iteration's labels count
        fitted = NMF(**options, init="nndsvda", random_state=seed)
        weights = np.asarray(fitted.fit_transform(matrix - matrix.min(axis=0)))
    loadings = np.asarray(fitted.components_) * np.linalg.norm(weights, axis=0)[:, None]
    return loadings.argmax(axis=0).astype(np.int64)


def leiden_labels(points: _Points, n_modules: int, seed: int) -> Int[np.ndarray, " points"]:
    """Communities of the graph that joins each point to those it correlates with most.

    The Leiden algorithm (Traag, Waltman & van Eck 2019) maximises modularity. The resolution is
    searched for K communities. If no resolution gives K, the K - 1 largest communities of the next
    larger number are kept, and the others are joined.

    Raises:
        ModulesError: If leidenalg is missing.
    """
    try:
        import igraph
        import leidenalg
    except ImportError as error:
        raise ModulesError(
            "The baseline 'leiden' needs the package leidenalg, which is not installed. Install "
            "it with pip install 'tl_modules[leiden]'."
        ) from error
    edges, weights = _neighbours(points)
    graph = igraph.Graph(len(points), edges)
    low, high = _LOWEST, _HIGHEST
    labels = np.arange(len(points))
    for _ in range(_N_HALVINGS):
        middle = float(np.sqrt(low * high))
        found = leidenalg.find_partition(
            graph,
            leidenalg.RBConfigurationVertexPartition,
            weights=weights,
            resolution_parameter=middle,
            seed=seed % 2**31,
        )
        n_found = len(found)
        if n_found < n_modules:
            low = middle
            continue
        high, labels = middle, np.asarray(found.membership, dtype=np.int64)
        if n_found == n_modules:
            break
    # leidenalg numbers communities from the largest to the smallest.
    return np.minimum(labels, n_modules - 1)


def _neighbours(points: _Points) -> tuple[np.ndarray, list[float]]:
    """Edges between points that correlate, and the edges' correlations."""
    from sklearn.neighbors import NearestNeighbors

    norms = np.linalg.norm(points, axis=1, keepdims=True)
    directions = points / np.where(norms > 0, norms, 1.0)
    n_neighbours = min(N_NEIGHBOURS, len(points) - 1)
    fitted = NearestNeighbors(n_neighbors=n_neighbours).fit(directions)
    near = fitted.kneighbors(return_distance=False)
    edges = np.stack([np.repeat(np.arange(len(points)), n_neighbours), near.ravel()], axis=1)
    edges = np.unique(np.sort(edges, axis=1), axis=0)
    cosines = (directions[edges[:, 0]] * directions[edges[:, 1]]).sum(axis=1)
    return edges[cosines > 0], cosines[cosines > 0].tolist()
