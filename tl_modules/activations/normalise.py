"""Normalisations of an activation matrix, fitted on some samples and applied to any samples."""

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
"""A smaller standard deviation is replaced by 1: a constant unit then becomes 0 and not noise."""

_LARGEST = 1e150
"""Squares of larger values overflow in float64. No float32 is that large."""

_REFIT = "Fit it on the samples again."

_LEVELS = 101
"""Quantiles that ``Rank`` keeps per unit."""

_Values = Float[np.ndarray, "_samples _units"]
_PerUnit = Float[np.ndarray, " _units"]


class _Fitted:
    """The base of the normalisers."""

    mean: _PerUnit

    def __repr__(self) -> str:
        """One line without the arrays."""
        return f"{type(self).__name__}({len(self.mean):,} units)"


@dataclass(frozen=True, repr=False)
class ZScore(_Fitted):
    """Each unit's mean and standard deviation over the fitted samples."""

    name: ClassVar[Normalisation] = "zscore"
    noun: ClassVar[str] = "z-scores"

    mean: _PerUnit
    """Mean over the samples."""

    std: _PerUnit
    """Sample standard deviation (ddof 1); 1 where it is below ``MIN_STD``."""

    @classmethod
    def fit(cls, values: _Values) -> "ZScore":
        """Fit on a matrix, as arXiv 2603.17823 does before clustering.

        Raises:
            ModulesError: If there are fewer than two samples, or a magnitude is above 1e150.

        >>> ZScore.fit(np.array([[1.0, 5.0], [3.0, 5.0]])).apply(np.array([[2.0, 6.0]])).tolist()
        [[0.0, 1.0]]
        """
        _check_two(values)
        largest = max(-float(values.min()), float(values.max()))
        if largest > _LARGEST:
            raise ModulesError(
                f"values should have magnitudes up to {_LARGEST:g}, so that their squares can be "
                f"summed; got {largest:.3g}. Scale them down."
            )
        mean = values.mean(axis=0, dtype=np.float64)
        std = values.std(axis=0, ddof=1, dtype=np.float64)
        return cls(mean, np.where(std < MIN_STD, 1.0, std))

    def apply(self, values: _Values) -> _Values:
        """Normalise a matrix by the fitted means and standard deviations, in the matrix's dtype."""
        dtype = values.dtype
        return (values - self.mean.astype(dtype)) / self.std.astype(dtype)


@dataclass(frozen=True, repr=False)
class Rank(_Fitted):
    """Each unit's quantiles over the fitted samples; an outlier then counts only by its rank."""

    name: ClassVar[Normalisation] = "rank"
    noun: ClassVar[str] = "ranks"

    mean: _PerUnit
    """Mean over the samples."""

    quantiles: Float[np.ndarray, "_levels _units"]
    """Quantiles at equal steps from 0 to 1: 101 of them, or as many as there are samples."""

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
        # Of few samples the quantiles are the sorted values themselves: interpolation would split
        # equal values by a rounding error.
        if len(values) <= _LEVELS:
            quantiles = np.sort(values, axis=0).astype(np.float64)
        else:
            quantiles = np.quantile(values, np.linspace(0, 1, _LEVELS), axis=0)
        return cls(values.mean(axis=0, dtype=np.float64), quantiles)

    def apply(self, values: _Values) -> _Values:
        """Replace each value by its rank among the unit's quantiles.

        Ranks are scaled to mean 0 and variance 1 if all values differ. A value that many samples
        share gets the middle of their ranks. A value outside the fitted range gets the nearest
        rank.
        """
        levels = np.linspace(0, 1, len(self.quantiles))
        ranks = np.empty_like(values.T)
        for unit, grid in enumerate(self.quantiles.T):
            column = values[:, unit].astype(np.float64)
            # np.interp returns the last of several equal quantiles. Interpolating the negated
            # values gives the first; the mean of both is the middle.
            upper = np.interp(column, grid, levels)
            lower = 1 - np.interp(-column, -grid[::-1], levels)
            ranks[unit] = (upper + lower) / 2
        # A uniform distribution on 0..1 has mean 1/2 and variance 1/12.
        return (ranks.T - 0.5) * values.dtype.type(np.sqrt(12))


@dataclass(frozen=True, repr=False)
class Raw(_Fitted):
    """No normalisation; units with large activations then dominate the partition."""

    name: ClassVar[Normalisation] = "none"
    noun: ClassVar[str] = "values"

    mean: _PerUnit
    """Mean over the samples."""

    @classmethod
    def fit(cls, values: _Values) -> "Raw":
        """Fit only the means, on which controls are matched."""
        return cls(values.mean(axis=0, dtype=np.float64))

    def apply(self, values: _Values) -> _Values:
        """Return the matrix unchanged."""
        return values


Normaliser = ZScore | Rank | Raw
_NORMALISERS: dict[str, type[ZScore] | type[Rank] | type[Raw]] = {
    normaliser.name: normaliser for normaliser in (ZScore, Rank, Raw)
}
NORMALISATIONS: tuple[Normalisation, ...] = get_args(Normalisation)
"""The names: ``zscore`` (arXiv 2603.17823), ``rank``, ``none``."""


def fit_normaliser(name: Normalisation, values: _Values) -> Normaliser:
    """Fit one of ``NORMALISATIONS``.

    Raises:
        ModulesError: If there are fewer than two samples.
    """
    return _NORMALISERS[name].fit(values)


def normaliser_arrays(normaliser: Normaliser | None) -> dict[str, np.ndarray]:
    """A normaliser's arrays as a file holds them, named ``normaliser_`` plus the field's name."""
    if normaliser is None:
        return {}
    return {
        f"normaliser_{field.name}": getattr(normaliser, field.name) for field in fields(normaliser)
    }


def read_normaliser(name: str | None, arrays: Mapping[str, np.ndarray]) -> Normaliser | None:
    """Rebuild a normaliser from a file's arrays.

    Raises:
        ModulesError: If the name is not valid.
        KeyError: If an array is missing.
    """
    if name is None:
        return None
    check_choice("normalise", name, NORMALISATIONS)
    normaliser = _NORMALISERS[name]
    return normaliser(*(arrays[f"normaliser_{field.name}"] for field in fields(normaliser)))


def largest_normaliser(n_units: int) -> dict[str, tuple[int, ...]]:
    """The largest shapes that ``normaliser_arrays`` may have."""
    return {
        "normaliser_mean": (n_units,),
        "normaliser_std": (n_units,),
        "normaliser_quantiles": (_LEVELS, n_units),
    }


def check_normaliser(normaliser: Normaliser | None, n_units: int) -> None:
    """Validate a normaliser against a number of units.

    Raises:
        ModulesError: If an array does not have that many units, or holds values that no fit gives.
    """
    for name, array in normaliser_arrays(normaliser).items():
        if array.ndim != 1 + name.endswith("quantiles") or array.shape[-1] != n_units:
            raise ModulesError(
                f"The normaliser should be fitted on {n_units} units; its {name} has shape "
                f"{array.shape}. Use the normaliser of a matrix of the same model and site."
            )
        check_float32s(name, array)
    if isinstance(normaliser, ZScore) and not (normaliser.std >= MIN_STD).all():
        raise ModulesError(
            f"The normaliser's standard deviations should be at least {MIN_STD}. {_REFIT}"
        )
    if isinstance(normaliser, Rank):
        steps = np.diff(normaliser.quantiles, axis=0)
        if len(steps) < 1 or (steps < 0).any():
            raise ModulesError(
                f"The normaliser should have 2 or more quantiles in ascending order. {_REFIT}"
            )


def check_same_kind(one: Normaliser, other: Normaliser) -> None:
    """Refuse activations whose normalisation is not that of the modules.

    Args:
        one: The activations' normaliser.
        other: The modules' normaliser.

    Raises:
        ModulesError: If the normalisations differ.
    """
    if one.name != other.name:
        raise ModulesError(
            f"The activations should have the modules' normalisation, {other.name!r}; they have "
            f"{one.name!r}. Pass the activations as collected."
        )


def _check_two(values: _Values) -> None:
    if len(values) < 2:
        raise ModulesError(
            f"A normalisation needs at least 2 samples; got {len(values)}. Collect more prompts."
        )
