"""Faithfulness over size, and the two areas that sum it up, with intervals over prompts."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int

from tl_modules.tables.bootstrap import percentile_interval


def trapezoids(
    values: Float[np.ndarray, "*batch sizes resamples"], shares: Sequence[float]
) -> Float[np.ndarray, "*batch resamples"]:
    """The area under a curve from its first size to its last; NaN for fewer than two sizes.

    Args:
        values: The curve's values.
        shares: Each size as a share of all units, ascending.

    >>> trapezoids(np.array([[0.0], [1.0]]), [0.5, 1.0]).tolist()
    [0.25]
    """
    if len(shares) < 2:
        return np.full((*values.shape[:-2], values.shape[-1]), np.nan)
    middle = (values[..., 1:, :] + values[..., :-1, :]) / 2
    return (middle * np.diff(shares)[:, None]).sum(axis=-2)


def curve_numbers(
    lifts: Float[np.ndarray, "orders sizes prompts"],
    gap: Float[np.ndarray, " prompts"],
    shares: Sequence[float],
    draws: Int[np.ndarray, "resamples prompts"],
) -> tuple[list[dict[str, float]], dict[str, float]]:
    """The numbers of one ranking, or of several orders that count as one, such as random ones.

    Args:
        lifts: The metric when the first units are kept, minus the metric when none is.
        gap: The metric with all units minus the metric with none.
        shares: Each size as a share of all units, ascending.
        draws: Resampled prompts, as ``bootstrap_indices`` returns them.

    Returns:
        One row per size with ``faithfulness``, the mean over the orders, its interval ``ci_low``
        and ``ci_high``, and the orders' ``lowest`` and ``highest``; and one row with ``cpr`` and
        ``cmd``, each with the same four numbers. Intervals are NaN for a single prompt; lowest and
        highest are NaN for a single order.
    """
    # How often each resample has each prompt; the first one is the prompts themselves.
    counts = np.stack([np.bincount(draw, minlength=len(gap)) for draw in draws])
    counts = np.concatenate([np.ones((1, len(gap)), dtype=counts.dtype), counts])
    with np.errstate(divide="ignore", invalid="ignore"):  # a resample without a gap gives NaN
        values = (lifts @ counts.T) / (gap @ counts.T)
    if len(gap) < 2:
        values[..., 1:] = np.nan
    sizes = [_numbers("faithfulness", "", values[:, at]) for at in range(len(shares))]
    cpr = _numbers("cpr", "cpr_", trapezoids(values, shares))
    cmd = _numbers("cmd", "cmd_", trapezoids(np.abs(1 - values), shares))
    return sizes, cpr | cmd


def _numbers(
    name: str, before: str, values: Float[np.ndarray, "orders resamples"]
) -> dict[str, float]:
    """The mean of a number over the orders, its interval, and the orders' extremes."""
    mean, observed = values.mean(axis=0), values[:, 0]
    low, high = percentile_interval(mean[1:])
    several = len(observed) > 1
    numbers = {
        name: mean[0],
        f"{before}ci_low": low,
        f"{before}ci_high": high,
        f"{before}lowest": observed.min() if several else np.nan,
        f"{before}highest": observed.max() if several else np.nan,
    }
    return {key: float(value) for key, value in numbers.items()}
