"""How strongly each sample drives its module, and how well each unit fits its module."""

import numpy as np
from jaxtyping import Float, Int

from tl_modules.discovery.products import Products


def topic_scores(
    products: Products,
    sample_labels: Int[np.ndarray, " samples"],
    unit_labels: Int[np.ndarray, " units"],
    n_modules: int,
) -> Float[np.ndarray, " samples"]:
    """Each sample's mean over the units of its module; 0 if the module has no units.

    Args:
        products: The normalised activations.
        sample_labels: Each sample's module.
        unit_labels: Each unit's module.
        n_modules: K.
    """
    sums = products.sample_sums(unit_labels, n_modules)
    counts = np.bincount(unit_labels, minlength=n_modules)[sample_labels]
    return sums[np.arange(len(sums)), sample_labels] / np.maximum(counts, 1)


def membership_scores(
    sums: Float[np.ndarray, "units modules"],
    sample_labels: Int[np.ndarray, " samples"],
    unit_labels: Int[np.ndarray, " units"],
) -> Float[np.ndarray, " units"]:
    """Each unit's mean on its module's topic minus its largest mean on another topic.

    Args:
        sums: Each unit's activation summed over each topic's samples.
        sample_labels: Each sample's topic.
        unit_labels: Each unit's module.

    Returns:
        One score per unit, on the scale of the normalised matrix; NaN if the unit's topic has no
        sample.
    """
    counts = np.bincount(sample_labels, minlength=sums.shape[1])
    means = np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)
    rows = np.arange(len(means))
    own_means = means[rows, unit_labels]
    means[rows, unit_labels] = np.nan
    # An all-NaN row would make nanmax warn, so missing topics become -inf instead.
    best_others = np.where(np.isnan(means), -np.inf, means).max(axis=1)
    return own_means - np.where(np.isneginf(best_others), 0.0, best_others)
