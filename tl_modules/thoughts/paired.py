"""Compare two runs on the same questions, such as two styles of asking, question by question."""

import numpy as np
import pandas as pd
from jaxtyping import Float

from tl_modules.tables.bootstrap import N_RESAMPLES, bootstrap_indices, percentile_interval


def paired_differences(own: pd.DataFrame, other: pd.DataFrame, seed: int) -> pd.DataFrame:
    """Average over questions what each question has in one run and in another.

    Args:
        own: One row per question, whose number is the index, and one column per measure.
        other: The other run, with the same index and columns.
        seed: Seeds the bootstrap.

    Returns:
        The table that ``Thoughts.beside`` describes.
    """
    rows = []
    for measure in own:
        pairs = np.stack([own[measure].to_numpy(float), other[measure].to_numpy(float)])
        # A question counts if both runs measured it: chains without a thought say nothing of
        # modules.
        pairs = pairs[:, ~np.isnan(pairs).any(axis=0)]
        differences = pairs[0] - pairs[1]
        mean, other_mean = pairs.mean(axis=1) if pairs.size else (np.nan, np.nan)
        low, high = _interval(differences, seed)
        rows.append((measure, len(differences), mean, other_mean, mean - other_mean, low, high))
    names = ["measure", "n_questions", "mean", "other_mean", "difference", "ci_low", "ci_high"]
    return pd.DataFrame(rows, columns=names)


def _interval(differences: Float[np.ndarray, " questions"], seed: int) -> tuple[float, float]:
    """The 95 % bootstrap interval of the mean; NaN for fewer than two questions."""
    if len(differences) < 2:
        return np.nan, np.nan
    draws = bootstrap_indices(np.zeros(len(differences)), N_RESAMPLES, seed)
    low, high = percentile_interval(differences[draws].mean(axis=1))
    return float(low), float(high)
