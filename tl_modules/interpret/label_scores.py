"""How well labels tell a module's prompts from others: AUROC, its interval and its null."""

import numpy as np
from jaxtyping import Bool, Float

from tl_modules.tables.against_controls import ROUNDING, control_p_value
from tl_modules.tables.roc import auc

LEAST_OWN = 2
"""The least number of prompts on either side, without which an interval has no variance."""

_NORMAL_95 = 1.959964


def most_active(activity: Float[np.ndarray, " prompts"], share: float) -> Bool[np.ndarray, " p"]:
    """Which prompts count as a module's own: those on which it is most active.

    Args:
        activity: The module's mean activation on each prompt.
        share: The share of prompts that count, with at least two on either side.

    Returns:
        One flag per prompt. Equal prompts count in their order.

    >>> most_active(np.array([0.1, 0.9, 0.2, 0.8, 0.0]), 0.4).tolist()
    [False, True, False, True, False]
    """
    n_prompts = len(activity)
    n_own = int(np.clip(round(share * n_prompts), LEAST_OWN, n_prompts - LEAST_OWN))
    own = np.zeros(n_prompts, dtype=bool)
    own[np.argsort(-activity, kind="stable")[:n_own]] = True
    return own


def auc_interval(
    scores: Float[np.ndarray, " prompts"], truth: Bool[np.ndarray, " prompts"]
) -> tuple[float, float]:
    """The 95 % interval of an AUROC (DeLong et al. 1988, with the midranks of Sun & Xu 2014).

    It is a normal approximation, cut at 0 and 1. A perfect score has an interval of no width.

    Args:
        scores: One score per prompt.
        truth: Which prompts are the module's; at least two are, and at least two are not.

    Returns:
        The lower and the upper end.

    >>> low, high = auc_interval(np.array([1.0, 2.0, 3.0, 4.0]), np.array([0, 1, 0, 1], dtype=bool))
    >>> round(low, 3), round(high, 3)
    (0.057, 1.0)
    """
    from scipy.stats import rankdata  # slow to import

    ranks = rankdata(scores)
    n_true, n_false = int(truth.sum()), int((~truth).sum())
    # The share of the other side that each prompt is on the right side of; ties count half.
    above = (ranks[truth] - rankdata(scores[truth])) / n_false
    below = 1 - (ranks[~truth] - rankdata(scores[~truth])) / n_true
    variance = above.var(ddof=1) / n_true + below.var(ddof=1) / n_false
    reach = _NORMAL_95 * float(np.sqrt(variance))
    return max(float(above.mean()) - reach, 0.0), min(float(above.mean()) + reach, 1.0)


def permutation_p_values(
    scores: Float[np.ndarray, "labels prompts"],
    truth: Bool[np.ndarray, " prompts"],
    n_permutations: int,
    generator: np.random.Generator,
) -> Float[np.ndarray, " labels"]:
    """One-sided p-values of AUROCs, if labels have nothing to do with which prompts are own.

    Args:
        scores: One row per label.
        truth: Which prompts are the module's.
        n_permutations: The number of permutations of the prompts; all labels share them.
        generator: Draws them.

    Returns:
        One value per label, at least ``1 / (1 + n_permutations)``.
    """
    from scipy.stats import rankdata  # slow to import

    n_true, n_prompts = int(truth.sum()), len(truth)
    ranks = rankdata(scores, axis=-1)
    sums = np.empty((n_permutations, len(scores)))
    for row in sums:
        row[:] = ranks[:, generator.permutation(n_prompts)[:n_true]].sum(axis=1)
    null = (sums - n_true * (n_true + 1) / 2) / (n_true * (n_prompts - n_true))
    observed = auc(scores, truth)
    return np.array(
        [
            control_p_value(float(value), of_label, ROUNDING)
            for value, of_label in zip(observed, null.T, strict=True)
        ]
    )
