"""Pooling a number over draws of what is uncertain, by Rubin's rules."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from tl_modules.tables.bootstrap import percentile_interval

TAIL = 0.975
"""The quantile at the upper end of a 95 % interval."""

_MANY = 1e12
"""Degrees of freedom of which Student's t is the normal distribution."""


@dataclass(frozen=True, eq=False)
class Pooled:
    """A number over all draws."""

    estimate: Float[np.ndarray, " *shape"]
    """The mean over the draws."""

    low: Float[np.ndarray, " *shape"]
    """The lower end of the 95 % interval."""

    high: Float[np.ndarray, " *shape"]
    """The upper end."""

    share: Float[np.ndarray, " *shape"]
    """The share of the variance that is between draws, from 0 to 1; 0 if there is no variance, and
    NaN where the interval is."""


def pooled(
    estimates: Float[np.ndarray, " draws *shape"],
    resampled: Float[np.ndarray, " draws resamples *shape"],
) -> Pooled:
    """Pool a number over draws (Rubin 1987, "Multiple Imputation for Nonresponse in Surveys").

    The variance is the mean bootstrap variance W of the draws plus (1 + 1 / m) times the variance B
    between m draws, with (m - 1) (1 + W / ((1 + 1 / m) B))^2 degrees of freedom of Student's t.
    The interval is the mean of the draws' percentile intervals, widened at both ends by what the
    half-width of Rubin's interval exceeds that of W's alone. So with one draw, or equal ones, it is
    the percentile interval.

    Args:
        estimates: The number in each draw.
        resampled: The number on each bootstrap resample of each draw.

    Returns:
        The pooled number; its interval is NaN where a draw's is.

    >>> found = pooled(np.array([1.0]), np.arange(101.0)[None])
    >>> float(found.estimate), round(float(found.low), 6), float(found.share)
    (1.0, 2.5, 0.0)
    """
    from scipy.special import stdtrit  # slow to import

    n_draws = len(estimates)
    ends = [percentile_interval(draw) for draw in resampled]
    low, high = (np.mean([each[at] for each in ends], axis=0) for at in (0, 1))
    within = resampled.var(axis=1, ddof=1).mean(axis=0)
    between = np.zeros_like(within)
    if n_draws > 1:
        between = (1 + 1 / n_draws) * estimates.var(axis=0, ddof=1)
    total = within + between
    normal = stdtrit(_MANY, TAIL)
    # A difference of rounding between equal draws is none, and would make the freedom overflow.
    varies = between > 1e-20 * total
    ratio = within / np.where(varies, between, 1.0)
    freedom = np.where(varies, (n_draws - 1) * (1 + ratio) ** 2, _MANY)
    quantile = stdtrit(np.minimum(freedom, _MANY), TAIL)
    wider = quantile * np.sqrt(total) - normal * np.sqrt(within)
    share = np.where(total == 0, 0.0, between / np.where(total == 0, 1.0, total))
    numbers = (estimates.mean(axis=0), low - wider, high + wider, share)
    return Pooled(*map(np.asarray, numbers))
