"""Uncertainty for causal tests: bootstrap intervals over prompts, p-values against controls."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Int

N_RESAMPLES = 2000
"""Bootstrap resamples of the prompts."""


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


ROUNDING = 1e-12
"""Tolerance for numbers of order 1 that are equal but for rounding: shares, correlations."""


def run_rounding(*measured: Float[np.ndarray, "..."]) -> float:
    """How far two runs of one intervention may differ by rounding: 1e-5 of the metric's mean size.

    A control that is the module itself, or nearly, counts as equal within this.

    Args:
        measured: The metric on each prompt, without an intervention.

    Returns:
        A tolerance in the metric's units, as ``control_p_value`` takes it.
    """
    return 1e-5 * float(np.mean([np.abs(values).mean() for values in measured]))


def rank_strata(
    values: Float[np.ndarray, " values"], smallest: int = 8
) -> Int[np.ndarray, " values"]:
    """Strata of similar values, by rank: small at both ends, where values lie far apart.

    From either end inwards the strata hold ``smallest``, twice, four times as many values, and so
    on, but at most an eighth of all; what is left in the middle is one stratum.

    Args:
        values: The values.
        smallest: Size of the first and of the last stratum. Fewer than ``3 * smallest`` values
            make one stratum.

    Returns:
        Each value's stratum, numbered from 0, lowest first.

    >>> np.bincount(rank_strata(np.arange(200.0))).tolist()
    [8, 16, 25, 25, 52, 25, 25, 16, 8]
    """
    n_values = len(values)
    largest = max(n_values // 8, smallest)
    sizes: list[int] = []
    size = smallest
    while 2 * (sum(sizes) + size) + smallest <= n_values:
        sizes.append(size)
        size = min(2 * size, largest)
    sizes = [*sizes, n_values - 2 * sum(sizes), *sizes[::-1]]
    numbers = np.empty(n_values, dtype=np.int64)
    numbers[np.argsort(values, kind="stable")] = np.repeat(np.arange(len(sizes)), sizes)
    return numbers


def draw_like(
    strata: Sequence[Int[np.ndarray, " _members"]],
    chosen: Bool[np.ndarray, " things"],
    generator: np.random.Generator,
) -> Int[np.ndarray, " drawn"]:
    """A random set that has as many things of each stratum as a given set; they may overlap.

    If the given set was itself drawn so, it and the results are exchangeable.

    Args:
        strata: The things in each stratum.
        chosen: Which things the given set holds.
        generator: Draws.

    Returns:
        The drawn things, in order.

    >>> strata = [np.arange(3), np.arange(3, 100)]
    >>> drawn = draw_like(strata, np.arange(100) < 5, np.random.default_rng(0))
    >>> len(drawn), drawn[:3].tolist()
    (5, [0, 1, 2])
    """
    counts = [int(np.count_nonzero(chosen[members])) for members in strata]
    drawn = [
        generator.choice(members, size=count, replace=False)
        for members, count in zip(strata, counts, strict=True)
        if count
    ]
    return np.sort(np.concatenate([np.empty(0, dtype=np.int64), *drawn]))


def control_p_value(
    observed: float, controls: Float[np.ndarray, " controls"], tolerance: float = 0.0
) -> float:
    """One-sided p-value of a number against the same number of its controls.

    ``(1 + controls at least as large) / (1 + controls)``: the observed one counts among them, so
    that the value is never 0 (Phipson & Smyth 2010). NaN without controls.

    Args:
        observed: The module's number.
        controls: The same number of each control, shape ``[controls]``.
        tolerance: Controls that are smaller by no more than this count as equal: rounding.

    Returns:
        A value between ``1 / (1 + controls)`` and 1.

    >>> control_p_value(2.0, np.array([1.0, 3.0, 0.5]))
    0.5
    """
    if len(controls) == 0 or np.isnan(observed):
        return float("nan")
    at_least = np.count_nonzero(controls >= observed - tolerance)
    return float((1 + at_least) / (1 + len(controls)))


def control_mean(controls: Float[np.ndarray, " controls *shape"]) -> Float[np.ndarray, " *shape"]:
    """The controls' mean, along the first axis; NaN without controls."""
    return np.asarray(
        controls.mean(axis=0) if len(controls) else np.full(controls.shape[1:], np.nan)
    )


def control_std(controls: Float[np.ndarray, " controls *shape"]) -> Float[np.ndarray, " *shape"]:
    """The controls' standard deviation (ddof 1), along the first axis; NaN for fewer than two."""
    if len(controls) < 2:
        return np.full(controls.shape[1:], np.nan)
    return np.asarray(controls.std(axis=0, ddof=1))


def beside_controls(
    runs: Float[np.ndarray, " runs"],
    resampled: Float[np.ndarray, " resamples"],
    sign: float = 1.0,
    tolerance: float = 0.0,
) -> dict[str, float]:
    """A module's number with its interval, beside the same number of its controls.

    Args:
        runs: The module's number, then each control's.
        resampled: The module's on bootstrap resamples of the prompts.
        sign: -1 if low numbers speak for the module: its p-value then counts controls as low.
        tolerance: As ``control_p_value`` takes it.

    Returns:
        ``effect``, ``ci_low``, ``ci_high``, ``control_mean``, ``control_std``, ``p_value``.

    >>> beside_controls(np.array([2.0, 1.0, 0.0]), np.array([1.0, 3.0]))["control_mean"]
    0.5
    """
    low, high = percentile_interval(resampled)
    return {
        "effect": float(runs[0]),
        "ci_low": float(low),
        "ci_high": float(high),
        "control_mean": float(control_mean(runs[1:])),
        "control_std": float(control_std(runs[1:])),
        "p_value": control_p_value(sign * float(runs[0]), sign * runs[1:], tolerance),
    }


def ratio_beside_controls(
    parts: Float[np.ndarray, "runs prompts"],
    wholes: Float[np.ndarray, " prompts"],
    draws: np.ndarray,
    sign: float = 1.0,
    tolerance: float = 0.0,
) -> dict[str, float]:
    """A ratio of sums over prompts, such as a share or a mean, beside the controls'.

    Args:
        parts: What is summed above, the module's first, then each control's.
        wholes: What is summed below; ones for a mean.
        draws: Resampled rows, as ``bootstrap_indices`` returns them.
        sign: As ``beside_controls`` takes it.
        tolerance: As ``control_p_value`` takes it.

    Returns:
        As ``beside_controls`` returns it; no interval (NaN) for a single prompt.

    >>> found = ratio_beside_controls(np.array([[1.0, 3.0]]), np.ones(2), np.array([[0, 1]]))
    >>> found["effect"], found["ci_low"]
    (2.0, 2.0)
    """
    with np.errstate(divide="ignore", invalid="ignore"):  # no interval then: NaN
        resampled = parts[0][draws].sum(axis=1) / wholes[draws].sum(axis=1)
        if len(wholes) < 2:
            resampled = np.full(len(draws), np.nan)
        return beside_controls(parts.sum(axis=1) / wholes.sum(), resampled, sign, tolerance)


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


def holm(p_values: Float[np.ndarray, " tests"]) -> Float[np.ndarray, " tests"]:
    """P-values adjusted so that the chance of any false claim stays at their level (Holm 1979).

    Args:
        p_values: One a test; NaN where there is none, which stays and does not count.

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
    """P-values adjusted so that the share of false claims stays at their level (1995), by SciPy.

    Args:
        p_values: One a test; NaN where there is none, which stays and does not count.

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
"""Up to so many values all sign flips are tried."""


def sign_flip_p_value(
    values: Float[np.ndarray, " values"], n_flips: int = 4095, seed: int = 0
) -> float:
    """Two-sided p-value of a mean against values that are symmetric around 0 (Fisher 1935).

    Args:
        values: One a prompt.
        n_flips: Random sign flips where there are more than 12 values; up to 12 all are tried.
        seed: Seeds them.

    Returns:
        The share of flips, the values as they are among them, whose mean is at least as far from
        0. NaN without values, or if one is NaN.

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
    return float(np.mean(sums >= sums[0] * (1 - 1e-12)))
