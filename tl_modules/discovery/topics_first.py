"""The method ``"topics_first"``: cluster the samples, then give each unit its strongest topic."""

import warnings
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from tqdm.auto import tqdm

from tl_modules.discovery.descent import IterDResult
from tl_modules.discovery.objectives import from_blocks
from tl_modules.discovery.products import Products
from tl_modules.discovery.start import N_RESTARTS, principal_components
from tl_modules.runtime.determinism import one_thread

TINY = float(np.finfo(float).tiny)


def topics_first(
    products: Products, n_modules: int, seed: int, *, progress: bool = False
) -> IterDResult:
    """Partition samples by k-means, and units by their expected activation on each topic.

    ``topic_labels`` finds the topics. Each unit then joins the topic with the highest expected
    activation. Nothing rewards equal sizes, so neither small modules nor rare topics are padded
    with others' units.

    Args:
        products: The normalised matrix.
        n_modules: K.
        seed: Seed of the k-means.
        progress: Show a progress bar.

    Returns:
        The partition. If the samples have fewer than K distinct values, some modules are empty.
    """
    with tqdm(total=3, desc="discover", unit="step", disable=not progress) as bar:
        # BLAS and k-means add up in an order that depends on their threads.
        with one_thread():
            points = principal_components(products, seed, n_modules)
            bar.update()
            samples = topic_labels(points, n_modules, seed)
        bar.update()
        sums = products.unit_sums(samples, n_modules)
        units = expected_labels(sums, samples, products.sum_of_squares())
        bar.update()
    in_block = sums[np.arange(len(units)), units]
    block_sums = np.bincount(units, weights=in_block, minlength=n_modules)
    sizes = [np.bincount(labels, minlength=n_modules) for labels in (samples, units)]
    value = from_blocks(block_sums, sizes[0] * sizes[1])
    return IterDResult(samples, units, value, history=(value.L,), converged=True)


def topic_labels(
    points: Float[np.ndarray, "samples components"], n_modules: int, seed: int
) -> Int[np.ndarray, " samples"]:
    """Each sample's topic: k-means on K - 1 principal components, with lengths evened out.

    K groups of centred samples span K - 1 directions; further components add noise. A sample's
    direction says which topic it is of; its length says how strongly, and large lengths would draw
    topics of their own. Each length is therefore replaced by its fourth root. With all lengths
    equal, samples near 0, whose direction is noise, would count as much as others.

    Args:
        points: The samples' principal components, the largest first.
        n_modules: K.
        seed: Seed of the k-means.
    """
    points = points[:, : max(1, n_modules - 1)]
    lengths = np.linalg.norm(points, axis=1, keepdims=True)
    points, lengths = (values / max(lengths.max(), TINY) for values in (points, lengths))
    evened = points / np.maximum(lengths, TINY) ** 0.75
    # Rounding errors would otherwise tell equal samples apart.
    return kmeans_labels(evened.round(6), n_modules, seed)


def kmeans_labels(
    points: Float[np.ndarray, "points axes"], n_modules: int, seed: int
) -> Int[np.ndarray, " points"]:
    """The best of 10 restarts of k-means, whose clusters may have any size."""
    # Slow to import, and only a fit needs them.
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning

    options: dict[str, Any] = {"n_init": N_RESTARTS}  # scikit-learn's types know text only
    with warnings.catch_warnings():
        # Equal points leave clusters empty; the modules show it.
        warnings.simplefilter("ignore", ConvergenceWarning)
        fitted = KMeans(n_modules, random_state=seed, **options).fit(points)
    return np.asarray(fitted.labels_, dtype=np.int64)


def expected_labels(
    sums: Float[np.ndarray, "units modules"],
    sample_labels: Int[np.ndarray, " samples"],
    sum_of_squares: float,
) -> Int[np.ndarray, " units"]:
    """For each unit, the topic on which its activation is expected to be highest.

    A mean over few samples is noisy, and the highest of several means is often the noisiest. Each
    unit's mean on a topic of n samples is therefore shrunk towards 0 by
    ``between / (between + within / n)``, its posterior mean if true means have the variance
    ``between`` and samples of one topic the variance ``within`` (James & Stein 1961; Efron &
    Morris 1973). Both variances are estimated over all units. If topics have equal sizes or the
    noise is small, the label is that of the highest mean.

    Args:
        sums: Each unit's activation summed over each topic's samples.
        sample_labels: Each sample's topic.
        sum_of_squares: The sum of all squared activations.
    """
    n_units, n_modules = sums.shape
    counts = np.bincount(sample_labels, minlength=n_modules)
    used = counts > 0
    means = sums[:, used] / counts[used]
    n_free = n_units * (len(sample_labels) - used.sum())
    explained = float((counts[used] * means**2).sum())
    within = max(sum_of_squares - explained, 0.0) / n_free if n_free else 0.0
    noise = within / counts[used]
    between = max(float((means**2 - noise).mean()), 0.0)
    # ``between`` in the numerator is the same for all topics.
    scale = between + noise
    weights = np.divide(1.0, scale, out=np.ones_like(scale), where=scale > 0)
    return np.flatnonzero(used)[(means * weights).argmax(axis=1)]
