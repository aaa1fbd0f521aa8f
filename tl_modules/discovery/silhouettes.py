"""How distinct the groups are that the samples form at a number of topics."""

import numpy as np

from tl_modules.discovery.products import Products
from tl_modules.discovery.start import N_COMPONENTS, principal_components
from tl_modules.discovery.topics_first import topic_labels
from tl_modules.runtime.determinism import one_thread


def topic_silhouette(products: Products, n_modules: int, seed: int) -> float:
    """The mean silhouette of the samples' groups (Rousseeuw 1987), from -1 to 1.

    Groups are the topics of ``topics_first``. Distances are 1 - cosine on the first 16 principal
    components: the length of a sample's vector, which depends on how many samples are like it,
    does not count, so small groups are as distinct as large ones.

    Args:
        products: The normalised matrix.
        n_modules: K.
        seed: Seed of the k-means.

    Returns:
        The mean over the samples; NaN if there are as many groups as samples, or one group.
    """
    from sklearn.metrics import silhouette_score  # slow to import, and only this needs it

    with one_thread():
        points = principal_components(products, seed, n_modules)
        labels = topic_labels(points, n_modules, seed)
        if not 1 < len(np.unique(labels)) < len(points):
            return float("nan")
        return float(silhouette_score(points[:, :N_COMPONENTS], labels, metric="cosine"))
