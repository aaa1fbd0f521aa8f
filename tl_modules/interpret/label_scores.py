"""How well labels tell a module's prompts from others: AUROC, its interval and its null."""

from typing import Any

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
    """The 95 % interval of an AUROC (Newcombe 2006, Statistics in Medicine 25, 559, method 5).

    It holds all AUROCs from which the observed one lies no more than 1.96 standard errors away, by
    the standard error of Hanley & McNeil (1982). Unlike an interval around the observed AUROC
    (DeLong et al. 1988), it is of use for few prompts and for AUROCs near 1: a perfect score says
    that the true one is high, not that it is 1. Ties make it somewhat too wide.

    Args:
        scores: One score per prompt.
        truth: Which prompts are the module's; at least two are, and at least two are not.

    Returns:
        The lower and the upper end.

    >>> low, high = auc_interval(np.array([1.0, 2.0, 3.0, 4.0]), np.array([0, 1, 0, 1], dtype=bool))
    >>> round(low, 3), round(high, 3)
    (0.227, 0.967)
    """
    from scipy.optimize import brentq  # slow to import

    observed = float(auc(scores, truth))
    n_true = int(truth.sum())
    n_pairs, n_more = n_true * (len(truth) - n_true), len(truth) / 2 - 1

    def beyond(true: float) -> float:
        """Above 0 where the observed AUROC would lie outside of the reach of this one."""
        spread = true * (1 - true) / n_pairs
        spread *= 1 + n_more * ((1 - true) / (2 - true) + true / (1 + true))
        return (true - observed) ** 2 - _NORMAL_95**2 * spread

    # At 0 and 1 the standard error is 0, so that these are the ends of an AUROC of 0 or 1 alone.
    edge = 1e-9
    low: Any = 0.0 if observed <= edge else brentq(beyond, 0.0, min(observed, 1 - edge))
    high: Any = 1.0 if observed >= 1 - edge else brentq(beyond, max(observed, edge), 1.0)
    return float(low), float(high)


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
