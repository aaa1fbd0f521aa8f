"""The area under the ROC curve."""

import numpy as np
from jaxtyping import Bool, Float


def auc(
    scores: Float[np.ndarray, "*shape rows"], truth: Bool[np.ndarray, " rows"]
) -> Float[np.ndarray, " *shape"]:
    """The chance that a row that is true scores higher than one that is not; ties count half.

    The area under the ROC curve, by ranks (Hanley & McNeil 1982).

    Args:
        scores: One a row, along the last axis.
        truth: Which rows are true: some, not all.

    Returns:
        From 0 to 1; 0.5 is chance.

    >>> auc(np.array([[1.0, 2.0, 3.0], [3.0, 3.0, 1.0]]), np.array([False, True, True])).tolist()
    [1.0, 0.25]
    """
    from scipy.stats import rankdata  # slow to import

    n_true = int(truth.sum())
    ranks = rankdata(scores, axis=-1)[..., truth].sum(axis=-1)
    return np.asarray((ranks - n_true * (n_true + 1) / 2) / (n_true * (len(truth) - n_true)))
