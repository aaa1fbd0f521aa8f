"""Checks of a matrix's values, means and row numbers."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int, Shaped

from tl_modules.errors import ModulesError
from tl_modules.saving.checked_json import check_float32s
from tl_modules.units import Units


def checked_rows(
    rows: Int[np.ndarray, " _rows"] | Sequence[int], n_samples: int
) -> Int[np.ndarray, " rows"]:
    """Sample numbers as an int64 array.

    Raises:
        ModulesError: If there is no number, or a number is not a sample's.
    """
    numbers = np.asarray(rows)
    are_integers = numbers.ndim == 1 and len(numbers) and numbers.dtype.kind in "iu"
    if not are_integers or numbers.min() < 0 or numbers.max() >= n_samples:
        raise ModulesError(
            f"rows should be whole numbers from 0 to {n_samples - 1}, at least one; got {rows!r}."
        )
    return numbers.astype(np.int64)


def check_finite(
    values: Float[np.ndarray, "samples units"], units: Units, names: Sequence[Any] | None = None
) -> None:
    """Refuse NaN and infinite activations; the message names the hook point and the sample.

    Args:
        values: The activations.
        units: The columns.
        names: What the message calls the rows; by default their numbers.

    Raises:
        ModulesError: If a value is NaN or infinite.
    """
    # Row sums show a value that is not finite, at a fraction of the memory of a mask of the matrix.
    with np.errstate(over="ignore", invalid="ignore"):
        finite = np.isfinite(values.sum(axis=1, dtype=np.float64)).all()
    if finite:
        return
    bad = np.argwhere(~np.isfinite(values))
    if not len(bad):  # every value is finite, only the sum overflowed
        return
    sample, unit = bad[0]
    named = sample if names is None else names[sample]
    raise ModulesError(
        f"Activations should be finite; at {units.hook_names[units.hook[unit]]!r}, index "
        f"{units.index[unit]}, sample {named} it is {values[sample, unit]}. Drop that sample, or "
        "run the model in a wider dtype (float32)."
    )


def check_unit_means(
    unit_means: Shaped[np.ndarray, "..."] | None, units: Units, name: str = "unit_means"
) -> None:
    """Refuse means for ablation that are not one finite number per coordinate.

    Raises:
        ModulesError: If there are more or fewer numbers, or a number is NaN or infinite.
    """
    if unit_means is None:
        return
    if unit_means.shape != (units.n_coordinates,):
        raise ModulesError(
            f"{name} should have {units.n_coordinates} entries; it has shape {unit_means.shape}."
        )
    bad = np.flatnonzero(~np.isfinite(unit_means)) if unit_means.dtype.kind == "f" else []
    if len(bad):
        raise ModulesError(
            f"{name} should be finite; entry {bad[0]} is {unit_means[bad[0]]}. Collect them "
            "anew, or leave them out."
        )
    check_float32s(name, unit_means)
