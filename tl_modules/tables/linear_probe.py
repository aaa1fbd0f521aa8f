"""The linear probe that tells one kind of prompts from the others."""

from typing import Any

import numpy as np
from jaxtyping import Bool, Float


def fitted_probe(
    values: Float[np.ndarray, "prompts features"], truth: Bool[np.ndarray, " prompts"]
) -> Any:
    """Logistic regression on standardised features; ``decision_function`` says how sure it is."""
    # Slow to import, and only a fit needs them.
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    return make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)).fit(values, truth)
