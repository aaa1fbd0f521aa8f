"""The linear probe that tells one kind of prompts from the others."""

from typing import Any

import numpy as np
from jaxtyping import Bool, Float


def fitted_probe(
    values: Float[np.ndarray, "prompts features"], truth: Bool[np.ndarray, " prompts"]
) -> Any:
    """Fit a logistic regression on standardised features.

    Args:
        values: The features.
        truth: Which prompts are of the kind that the probe tells from the others.

    Returns:
        A scikit-learn pipeline; ``decision_function`` returns the log-odds.
    """
    # Slow to import, and only a fit needs them.
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    return make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)).fit(values, truth)
