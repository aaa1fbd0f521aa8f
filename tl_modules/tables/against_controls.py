"""A number of a module beside the same number of its controls: p-value, mean and spread."""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Bool, Float

from tl_modules.tables.bootstrap import percentile_interval

ROUNDING = 1e-12
"""Tolerance for shares, correlations and other numbers of order 1 that differ only by rounding."""


def run_rounding(*measured: Float[np.ndarray, "..."]) -> float:
    """The difference that rounding may make between two runs of one intervention.

    It is 1e-5 of the metric's mean magnitude. Within it, a control that is the module itself, or
    nearly the same, counts as equal.

    Args:
        measured: The metric on each prompt, without an intervention.

    Returns:
        A tolerance in the metric's units, as ``control_p_value`` takes it.
    """
    return 1e-5 * float(np.mean([np.abs(values).mean() for values in measured]))


def control_p_value(
    observed: float, controls: Float[np.ndarray, " controls"], tolerance: float = 0.0
) -> float:
    """One-sided p-value of a module's number against the same number of its controls.

    The value is ``(1 + controls at least as large) / (1 + controls)``. The module counts among its
    controls, so that the value is never 0 (Phipson & Smyth 2010).

    Args:
        observed: The module's number.
        controls: The same number of each control, shape ``[controls]``.
        tolerance: Controls that are smaller by no more than this count as equal, to allow for
            rounding.

    Returns:
        A value between ``1 / (1 + controls)`` and 1; NaN without controls.

    >>> control_p_value(2.0, np.array([1.0, 3.0, 0.5]))
    0.5
    """
    return (
        float("nan") if np.isnan(observed) else p_value_of(exceeding(observed, controls, tolerance))
    )


def exceeding(
    observed: float, controls: Float[np.ndarray, " controls"], tolerance: float
) -> Bool[np.ndarray, " controls"]:
    """Whether each control's number is at least as large as the module's, but for rounding."""
    return controls >= observed - tolerance


def p_value_of(exceeds: Bool[np.ndarray, " controls"]) -> float:
    """The p-value against a number of controls that was fixed before; see ``control_p_value``.

    Args:
        exceeds: Whether each control's number is at least as large as the module's.

    Returns:
        NaN without controls.
    """
    if not len(exceeds):
        return float("nan")
    return float((1 + np.count_nonzero(exceeds)) / (1 + len(exceeds)))


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
    """Compare a module's number with the same number of its controls.

    Args:
        runs: The module's number, then each control's.
        resampled: The module's number on bootstrap resamples of the prompts.
        sign: -1 if low numbers are evidence for the module. The p-value then counts controls that
            are at least as low.
        tolerance: The tolerance for rounding, as ``control_p_value`` takes it.

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


def named(name: str, numbers: Mapping[str, float]) -> dict[str, float]:
    """Name the numbers of ``beside_controls`` after what they are of.

    Args:
        name: The name of the number itself, with which the others' names begin.
        numbers: What ``beside_controls`` returned.

    >>> named("cost", {"effect": 1.0, "p_value": 0.05})
    {'cost': 1.0, 'cost_p_value': 0.05}
    """
    return {name if key == "effect" else f"{name}_{key}": it for key, it in numbers.items()}


def ratio_beside_controls(
    parts: Float[np.ndarray, "runs prompts"],
    wholes: Float[np.ndarray, " prompts"],
    draws: np.ndarray,
    sign: float = 1.0,
    tolerance: float = 0.0,
) -> dict[str, float]:
    """Compare a module's ratio of sums over prompts, such as a share or a mean, with its controls'.

    Args:
        parts: The numerators, per prompt: the module's, then each control's.
        wholes: The denominators, per prompt; ones for a mean.
        draws: Resampled rows, as ``bootstrap_indices`` returns them.
        sign: The sign, as ``beside_controls`` takes it.
        tolerance: The tolerance for rounding, as ``control_p_value`` takes it.

    Returns:
        What ``beside_controls`` returns; the interval is NaN for a single prompt.

    >>> found = ratio_beside_controls(np.array([[1.0, 3.0]]), np.ones(2), np.array([[0, 1]]))
    >>> found["effect"], found["ci_low"]
    (2.0, 2.0)
    """
    # A resample whose denominators sum to 0 gives NaN, and so does its interval.
    with np.errstate(divide="ignore", invalid="ignore"):
        resampled = parts[0][draws].sum(axis=1) / wholes[draws].sum(axis=1)
        if len(wholes) < 2:
            resampled = np.full(len(draws), np.nan)
        return beside_controls(parts.sum(axis=1) / wholes.sum(), resampled, sign, tolerance)
