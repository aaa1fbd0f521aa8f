"""How strongly each sample drives its module, and how well each unit fits its module."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from tl_modules.discovery.products import Products
from tl_modules.modules.labels import BACKGROUND


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


class Memberships(NamedTuple):
    """How well units fit their modules, and the modules that they fit next best."""

    scores: Float[np.ndarray, " units"]
    """Each unit's mean on its module's topic minus its largest mean on another topic, on the scale
    of the normalised matrix; NaN if the unit's topic has no sample."""

    runners_up: Int[np.ndarray, " units"]
    """The other module with that largest mean; -1 if no other topic has a sample."""


def memberships(
    sums: Float[np.ndarray, "units modules"],
    sample_labels: Int[np.ndarray, " samples"],
    unit_labels: Int[np.ndarray, " units"],
) -> Memberships:
    """Compare each unit's mean on its own topic with its means on the others.

    Args:
        sums: Each unit's activation summed over each topic's samples.
        sample_labels: Each sample's topic.
        unit_labels: Each unit's module.
    """
    counts = np.bincount(sample_labels, minlength=sums.shape[1])
    means = np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)
    rows = np.arange(len(means))
    own_means = means[rows, unit_labels]
    means[rows, unit_labels] = np.nan
    # An all-NaN row would make nanmax warn, so missing topics become -inf instead.
    others = np.where(np.isnan(means), -np.inf, means)
    runners_up = others.argmax(axis=1)
    best_others = others[rows, runners_up]
    is_alone = np.isneginf(best_others)
    scores = own_means - np.where(is_alone, 0.0, best_others)
    return Memberships(scores, np.where(is_alone, BACKGROUND, runners_up))
