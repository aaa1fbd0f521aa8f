"""What ablating a set of units does to one category of prompts and to the others."""

import numpy as np
from jaxtyping import Float, Int, Shaped

from tl_modules.tables.bootstrap import percentile_interval
from tl_modules.tables.prompt_frames import is_category

NUMBERS = ("effect", "others", "selectivity", "specificity")
"""Effect on the own category, the mean of the effects on the others, their difference, and their
ratio."""


def own_and_others(
    rises: Float[np.ndarray, "runs prompts"], categories: Shaped[np.ndarray, " prompts"], own: str
) -> Float[np.ndarray, "runs 2"]:
    """The effect on the own category, and the mean over the other categories of the effects there.

    Args:
        rises: The rise of each prompt's metric under each run.
        categories: Each prompt's category.
        own: One of them.
    """
    is_own = is_category(categories, own)
    names = dict.fromkeys(categories[~is_own].tolist())
    others = [rises[:, is_category(categories, name)].mean(axis=1) for name in names]
    return np.stack([rises[:, is_own].mean(axis=1), np.mean(others, axis=0)], axis=1)


def selectivities(
    rises: Float[np.ndarray, "runs prompts"], categories: Shaped[np.ndarray, " prompts"], own: str
) -> Float[np.ndarray, " runs"]:
    """The effect on the own category minus the mean effect on the others, of each run."""
    effects = own_and_others(rises, categories, own)
    return effects[:, 0] - effects[:, 1]


def core_numbers(
    rises: Float[np.ndarray, " prompts"],
    categories: Shaped[np.ndarray, " prompts"],
    own: str,
    draws: Int[np.ndarray, "resamples prompts"],
) -> dict[str, float]:
    """The numbers of one set of units, with intervals over prompts.

    Args:
        rises: The rise of each prompt's metric.
        categories: Each prompt's category.
        own: The set's own category.
        draws: Resampled rows, as ``bootstrap_indices`` returns them; within categories.

    Returns:
        Each of ``NUMBERS`` and its interval: ``ci_low`` and ``ci_high`` for the effect,
        ``others_ci_low`` and so on for the others. The specificity is NaN if the set does not harm
        its own category, and infinite if it harms no other. Its interval is NaN if a resample's
        specificity is.
    """
    found = _numbers(own_and_others(rises[None], categories, own))[0]
    resampled = _numbers(own_and_others(rises[draws], categories, own))
    with np.errstate(invalid="ignore"):  # between two infinite ratios
        low, high = percentile_interval(resampled)
    numbers = {}
    for at, name in enumerate(NUMBERS):
        before = "" if name == "effect" else f"{name}_"
        numbers |= {name: found[at], f"{before}ci_low": low[at], f"{before}ci_high": high[at]}
    return {name: float(value) for name, value in numbers.items()}


def _numbers(effects: Float[np.ndarray, "runs 2"]) -> Float[np.ndarray, "runs 4"]:
    own, others = effects.T
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.where(own > 0, np.where(others > 0, own / others, np.inf), np.nan)
    return np.stack([own, others, own - others, ratio], axis=1)
