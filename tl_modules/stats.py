"""Uncertainty for causal tests: bootstrap intervals over prompts, p-values against controls."""

import numpy as np
from jaxtyping import Float


def bootstrap_indices(groups: np.ndarray, n_resamples: int, seed: int) -> np.ndarray:
    """Rows drawn with replacement, each group keeping its size (a stratified bootstrap).

    Args:
        groups: One group name or number per row, shape ``[rows]``.
        n_resamples: How many resamples.
        seed: Seeds the draw.

    Returns:
        Row numbers, shape ``[n_resamples, rows]``; column ``i`` is drawn from row ``i``'s group.

    >>> draws = bootstrap_indices(np.array(["a", "a", "b"]), 4, seed=0)
    >>> draws.shape, set(draws[:, 2].tolist())
    ((4, 3), {2})
    """
    generator = np.random.default_rng(seed)
    draws = np.empty((n_resamples, len(groups)), dtype=np.int64)
    for group in np.unique(groups):
        members = np.flatnonzero(groups == group)
        draws[:, members] = generator.choice(members, size=(n_resamples, len(members)))
    return draws


def percentile_interval(
    resampled: Float[np.ndarray, " resamples *shape"], confidence: float = 0.95
) -> tuple[Float[np.ndarray, " *shape"], Float[np.ndarray, " *shape"]]:
    """The percentile bootstrap interval of a statistic (Efron & Tibshirani 1993, ch. 13).

    With few rows (under about 8) such an interval is too narrow; it says how much the prompts at
    hand disagree, no more.

    Args:
        resampled: The statistic on each resample, along the first axis.
        confidence: The interval's nominal coverage, between 0 and 1.

    Returns:
        The interval's lower and upper ends.

    >>> low, high = percentile_interval(np.arange(101.0), confidence=0.9)
    >>> round(float(low), 6), round(float(high), 6)
    (5.0, 95.0)
    """
    tail = (1 - confidence) / 2
    low, high = np.quantile(resampled, [tail, 1 - tail], axis=0)
    return np.asarray(low), np.asarray(high)


def control_p_value(observed: float, controls: Float[np.ndarray, " controls"]) -> float:
    """One-sided p-value of a number against the same number of its controls.

    ``(1 + controls at least as large) / (1 + controls)``: the observed one counts among them, so
    that the value is never 0 (Phipson & Smyth 2010). NaN without controls.

    Args:
        observed: The module's number.
        controls: The same number of each control, shape ``[controls]``.

    Returns:
        A value between ``1 / (1 + controls)`` and 1.

    >>> control_p_value(2.0, np.array([1.0, 3.0, 0.5]))
    0.5
    """
    if len(controls) == 0 or np.isnan(observed):
        return float("nan")
    return float((1 + np.count_nonzero(controls >= observed)) / (1 + len(controls)))
