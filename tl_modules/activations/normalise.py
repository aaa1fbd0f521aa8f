"""Normalisations of an activation matrix: fitted on some samples, applied to any."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import ClassVar, Literal, get_args

import numpy as np
from jaxtyping import Float

from tl_modules.errors import ModulesError, check_choice
from tl_modules.saving.checked_json import check_float32s

Normalisation = Literal["zscore", "rank", "none"]
"""What is done to each unit's column. ``zscore``: as in arXiv 2603.17823."""

MIN_STD = 1e-8
"""A unit whose standard deviation is below this gets 1, so that it becomes 0, not noise."""

_LARGEST = 1e150
"""Squares of larger values overflow in float64; float32 has none."""

_REFIT = "Fit it on the samples again."

_LEVELS = 101
"""Quantiles that a rank keeps of each unit."""

_Values = Float[np.ndarray, "_samples _units"]
_PerUnit = Float[np.ndarray, " _units"]


class _Fitted:
    """What the normalisers share."""

    mean: _PerUnit

    def __repr__(self) -> str:
        """One line, not its arrays."""
        return f"{type(self).__name__}({len(self.mean):,} units)"


@dataclass(frozen=True, repr=False)
class ZScore(_Fitted):
    """Each unit's mean and standard deviation over the samples it was fitted on."""

    name: ClassVar[Normalisation] = "zscore"
    noun: ClassVar[str] = "z-scores"

    mean: _PerUnit
    """Mean over the samples."""

    std: _PerUnit
    """Sample standard deviation (ddof 1); 1 where it is below ``MIN_STD``."""

    @classmethod
    def fit(cls, values: _Values) -> "ZScore":
        """Fit on a matrix (design: arXiv 2603.17823, the z-score before clustering).

        Raises:
            ModulesError: If there are fewer than two samples, or a value is above 1e150.

        >>> ZScore.fit(np.array([[1.0, 5.0], [3.0, 5.0]])).apply(np.array([[2.0, 6.0]])).tolist()
        [[0.0, 1.0]]
        """
        _check_two(values)
        largest = max(-float(values.min()), float(values.max()))
        if largest > _LARGEST:
            raise ModulesError(
                f"values should lie within {_LARGEST:g}, so that their squares can be summed; got "
                f"{largest:.3g}. Scale them down."
            )
        mean = values.mean(axis=0, dtype=np.float64)
        std = values.std(axis=0, ddof=1, dtype=np.float64)
        return cls(mean, np.where(std < MIN_STD, 1.0, std))

    def apply(self, values: _Values) -> _Values:
        """The matrix normalised, in its own dtype; held-out samples use the fitted numbers."""
        dtype = values.dtype
        return (values - self.mean.astype(dtype)) / self.std.astype(dtype)


@dataclass(frozen=True, repr=False)
class Rank(_Fitted):
    """Each unit's quantiles over the samples it was fitted on: an outlier counts as its rank."""

    name: ClassVar[Normalisation] = "rank"
    noun: ClassVar[str] = "ranks"

    mean: _PerUnit
    """Mean over the samples."""

    quantiles: Float[np.ndarray, "_levels _units"]
    """Quantiles at equal steps from 0 to 1; 101, or as many as there are samples."""

    @classmethod
    def fit(cls, values: _Values) -> "Rank":
        """Fit on a matrix.

        Raises:
            ModulesError: If there are fewer than two samples.

        >>> ranks = Rank.fit(np.array([[1.0], [3.0], [900.0]]))
        >>> ranks.apply(np.array([[1.0], [2.0], [3.0], [900.0]])).round(2).ravel().tolist()
        [-1.73, -0.87, 0.0, 1.73]
        """
        _check_two(values)
        if len(values) <= _LEVELS:  # exact: interpolation would split ties by a rounding error
            quantiles = np.sort(values, axis=0).astype(np.float64)
        else:
            quantiles = np.quantile(values, np.linspace(0, 1, _LEVELS), axis=0)
        return cls(values.mean(axis=0, dtype=np.float64), quantiles)

    def apply(self, values: _Values) -> _Values:
        """Each value's place among the quantiles, scaled to mean 0 and variance 1 if all differ.

        A value that many samples share gets the middle of their places; beyond the fitted samples'
        range it is that of the nearest.
        """
        levels = np.linspace(0, 1, len(self.quantiles))
        ranks = np.empty_like(values.T)
        for unit, grid in enumerate(self.quantiles.T):
            own = values[:, unit].astype(np.float64)
            # Among equal quantiles np.interp takes the last: once from each end.
            upper = np.interp(own, grid, levels)
            lower = 1 - np.interp(-own, -grid[::-1], levels)
            ranks[unit] = (upper + lower) / 2
        return (ranks.T - 0.5) * values.dtype.type(np.sqrt(12))


@dataclass(frozen=True, repr=False)
class Raw(_Fitted):
    """No normalisation: units of large activations then decide the partition."""

    name: ClassVar[Normalisation] = "none"
    noun: ClassVar[str] = "values"

    mean: _PerUnit
    """Mean over the samples."""

    @classmethod
    def fit(cls, values: _Values) -> "Raw":
        """Only the means, for controls matched on them."""
        return cls(values.mean(axis=0, dtype=np.float64))

    def apply(self, values: _Values) -> _Values:
        """The matrix as it is."""
        return values


Normaliser = ZScore | Rank | Raw
_KINDS: dict[str, type[ZScore] | type[Rank] | type[Raw]] = {
    kind.name: kind for kind in (ZScore, Rank, Raw)
}
NORMALISATIONS: tuple[Normalisation, ...] = get_args(Normalisation)


def fit_normaliser(name: Normalisation, values: _Values) -> Normaliser:
    """Fit one of ``NORMALISATIONS``.

    Raises:
        ModulesError: If there is no such one, or there are fewer than two samples.
    """
    check_choice("normalise", name, NORMALISATIONS)
    return _KINDS[name].fit(values)


def normaliser_arrays(normaliser: Normaliser | None) -> dict[str, np.ndarray]:
    """A normaliser's arrays as a file keeps them, under ``normaliser_`` and the field's name."""
    if normaliser is None:
        return {}
    return {
        f"normaliser_{field.name}": getattr(normaliser, field.name) for field in fields(normaliser)
    }


def read_normaliser(name: str | None, arrays: Mapping[str, np.ndarray]) -> Normaliser | None:
    """A normaliser from a file.

    Raises:
        ModulesError: If there is no such one.
        KeyError: If an array is missing.
    """
    if name is None:
        return None
    check_choice("normalise", name, NORMALISATIONS)
    kind = _KINDS[name]
    return kind(*(arrays[f"normaliser_{field.name}"] for field in fields(kind)))


def largest_normaliser(n_units: int) -> dict[str, tuple[int, ...]]:
    """The largest shapes of ``normaliser_arrays``."""
    return {
        "normaliser_mean": (n_units,),
        "normaliser_std": (n_units,),
        "normaliser_quantiles": (_LEVELS, n_units),
    }


def check_normaliser(normaliser: Normaliser | None, n_units: int) -> None:
    """Refuse one that was fitted on another number of units.

    Raises:
        ModulesError: If an array has another shape, or values that no fit gives.
    """
    for name, array in normaliser_arrays(normaliser).items():
        if array.ndim != 1 + name.endswith("quantiles") or array.shape[-1] != n_units:
            raise ModulesError(
                f"The normaliser should be fitted on {n_units} units; its {name} has shape "
                f"{array.shape}. Use that of a matrix of the same model and site."
            )
        check_float32s(name, array)
    if isinstance(normaliser, ZScore) and not (normaliser.std >= MIN_STD).all():
        raise ModulesError(
            f"The normaliser's standard deviations should be at least {MIN_STD}. {_REFIT}"
        )
    if isinstance(normaliser, Rank):
        steps = np.diff(normaliser.quantiles, axis=0)
        if len(steps) < 1 or (steps < 0).any():
            raise ModulesError(f"The normaliser's quantiles should be 2 or more, rising. {_REFIT}")


def check_same_kind(one: Normaliser, other: Normaliser) -> None:
    """Refuse activations that were normalised otherwise than the modules'.

    Raises:
        ModulesError: If the kinds differ.
    """
    if one.name != other.name:
        raise ModulesError(
            f"The activations should be normalised as the modules' were, by {other.name!r}; they "
            f"are by {one.name!r}. Pass the activations as collected."
        )


def _check_two(values: _Values) -> None:
    if len(values) < 2:
        raise ModulesError(
            f"A normalisation needs at least 2 samples; got {len(values)}. Collect more prompts."
        )
