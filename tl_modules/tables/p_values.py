"""P-values: corrections for several tests, and the sign-flip test of a mean."""

import numpy as np
import pandas as pd
from jaxtyping import Float


def holm(p_values: Float[np.ndarray, " tests"]) -> Float[np.ndarray, " tests"]:
    """Adjust p-values to control the probability of any false claim (Holm 1979).

    Args:
        p_values: One value per test. NaN stands for no test, stays NaN and does not count.

    Returns:
        The adjusted values, at most 1.

    >>> holm(np.array([0.01, 0.04, 0.03])).tolist()
    [0.03, 0.06, 0.06]
    """
    adjusted = np.full(len(p_values), np.nan)
    known = np.flatnonzero(~np.isnan(p_values))
    order = known[np.argsort(p_values[known], kind="stable")]
    steps = p_values[order] * np.arange(len(order), 0, -1)
    adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1.0)
    return adjusted


def benjamini_hochberg(p_values: Float[np.ndarray, " tests"]) -> Float[np.ndarray, " tests"]:
    """Adjust p-values to control the expected share of false claims (Benjamini & Hochberg 1995).

    Args:
        p_values: One value per test. NaN stands for no test, stays NaN and does not count.

    Returns:
        The adjusted values.

    >>> benjamini_hochberg(np.array([0.01, np.nan, 0.04])).round(6).tolist()
    [0.02, nan, 0.04]
    """
    from scipy.stats import false_discovery_control  # slow to import

    adjusted = np.full(len(p_values), np.nan)
    known = ~np.isnan(p_values)
    if known.any():
        adjusted[known] = false_discovery_control(p_values[known])
    return adjusted


N_EXACT_FLIPS = 12
"""Largest number of values for which all sign flips are tried."""


def corrected_within(table: pd.DataFrame, column: str, by: str) -> pd.DataFrame:
    """Add the corrections of a column of p-values, over the rows that agree in another column.

    Args:
        table: The table.
        column: The column of p-values, whose name ends in ``p_value``.
        by: The column that tells the groups.

    Returns:
        The table with two more columns, whose names end in ``p_holm`` and ``p_bh``.

    >>> table = pd.DataFrame({"kind": ["a", "a", "b"], "p_value": [0.01, 0.04, 0.04]})
    >>> corrected_within(table, "p_value", "kind")["p_holm"].tolist()
    [0.02, 0.04, 0.04]
    """
    groups = table.groupby(by, sort=False)[column]
    return table.assign(
        **{
            column.removesuffix("value") + name: groups.transform(
                lambda values, adjust=adjust: adjust(values.to_numpy(dtype=float))
            )
            for name, adjust in (("holm", holm), ("bh", benjamini_hochberg))
        }
    )


def sign_flip_p_value(
    values: Float[np.ndarray, " values"], n_flips: int = 4095, seed: int = 0
) -> float:
    """Two-sided p-value of a mean, if values were symmetric around 0 (Fisher 1935).

    Args:
        values: One value per prompt.
        n_flips: Number of random sign flips for more than 12 values. For fewer, all sign flips are
            tried.
        seed: Seed of the random sign flips.

    Returns:
        The share of sign flips whose mean is at least as far from 0 as that of the values. The
        values themselves count as one flip. NaN without values, or if a value is NaN.

    >>> sign_flip_p_value(np.array([1.0, 2.0, 3.0]))
    0.25
    """
    n_values = len(values)
    if n_values == 0 or np.isnan(values).any():
        return float("nan")
    if n_values <= N_EXACT_FLIPS:
        bits = np.arange(2**n_values)[:, None] >> np.arange(n_values) & 1
        signs = 1.0 - 2.0 * bits
    else:
        signs = np.random.default_rng(seed).choice([-1.0, 1.0], size=(n_flips, n_values))
        signs = np.concatenate([np.ones((1, n_values)), signs])
    sums = np.abs(signs @ values)
    # The tolerance lets flips count that differ from the values' sum only by rounding.
    return float(np.mean(sums >= sums[0] * (1 - 1e-12)))
