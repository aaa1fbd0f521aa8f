"""Bootstrap over prompts: resampled rows, and the interval of a statistic on them."""

import numpy as np
from jaxtyping import Float

N_RESAMPLES = 2000
"""Number of bootstrap resamples of the prompts."""


def bootstrap_indices(groups: np.ndarray, n_resamples: int, seed: int) -> np.ndarray:
    """Draw rows with replacement, so that each group keeps its size (a stratified bootstrap).

    Args:
        groups: One group name or number per row, shape ``[rows]``.
        n_resamples: Number of resamples.
        seed: Seed of the draw.

    Returns:
        Row numbers, shape ``[n_resamples, rows]``. Column ``i`` is drawn from the group of row
        ``i``.

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

    With fewer than about 8 rows the interval is too narrow. It then only shows how much these
    prompts disagree.

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
