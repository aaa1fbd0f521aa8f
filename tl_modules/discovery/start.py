"""Where IterD starts: balanced k-means labels of the samples, and labels that follow others."""

import numpy as np
from jaxtyping import Float, Int

N_COMPONENTS = 16
"""The paper's number of principal components."""

N_RESTARTS = 10
"""Restarts of the balanced k-means."""


def balanced_sample_labels(
    matrix: Float[np.ndarray, "samples units"], n_modules: int, seed: int
) -> Int[np.ndarray, " samples"]:
    """Group the samples into clusters of equal size (differing by one at most).

    PCA to 16 dimensions, then k-means whose clusters hold ``floor(N/K)`` to ``ceil(N/K)`` samples
    (Bradley, Bennett & Demiriz 2000), the best of 10 restarts.

    Args:
        matrix: Normalised activations.
        n_modules: K.
        seed: Seeds both.

    Returns:
        Each sample's cluster.
    """
    # Slow to import, and only a fit needs them.
    from k_means_constrained import KMeansConstrained
    from sklearn.decomposition import PCA

    n_samples = len(matrix)
    components = PCA(n_components=min(N_COMPONENTS, *matrix.shape), random_state=seed)
    clusters = KMeansConstrained(
        n_clusters=n_modules,
        size_min=n_samples // n_modules,
        size_max=-(-n_samples // n_modules),
        n_init=N_RESTARTS,
        random_state=seed,
    )
    points = components.fit_transform(matrix).astype(np.float64)
    return np.asarray(clusters.fit(points).labels_, dtype=np.int64)


def strongest_labels(
    sums: Float[np.ndarray, "items modules"], others: Int[np.ndarray, " others"]
) -> Int[np.ndarray, " items"]:
    """The label whose members drive each item most, on average.

    Args:
        sums: Each item's activation summed over each label's members.
        others: The members' labels.

    Returns:
        One label an item; a label without members is never chosen.
    """
    counts = np.bincount(others, minlength=sums.shape[1])
    means = np.where(counts > 0, sums / np.maximum(counts, 1), -np.inf)
    return means.argmax(axis=1).astype(np.int64)
