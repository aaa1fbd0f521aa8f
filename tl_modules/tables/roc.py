"""The area under the ROC curve."""

import numpy as np
from jaxtyping import Bool, Float


def auc(
    scores: Float[np.ndarray, "*shape rows"], truth: Bool[np.ndarray, " rows"]
) -> Float[np.ndarray, " *shape"]:
    """The area under the ROC curve, computed from ranks (Hanley & McNeil 1982).

    It is the probability that a random true row scores higher than a random false row; ties count
    half.

    Args:
        scores: One score per row, along the last axis.
        truth: Which rows are true; at least one row is true, and at least one is not.

    Returns:
        Values from 0 to 1; 0.5 is chance.

    >>> auc(np.array([[1.0, 2.0, 3.0], [3.0, 3.0, 1.0]]), np.array([False, True, True])).tolist()
    [1.0, 0.25]
    """
    from scipy.stats import rankdata  # slow to import

    n_true = int(truth.sum())
    ranks = rankdata(scores, axis=-1)[..., truth].sum(axis=-1)
    return np.asarray((ranks - n_true * (n_true + 1) / 2) / (n_true * (len(truth) - n_true)))
