"""A matrix's values as an xarray ``DataArray``, whose axes carry the samples' and units' names."""

from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from tl_modules.errors import ModulesError
from tl_modules.units import Units

if TYPE_CHECKING:
    from xarray import DataArray

SAMPLE, UNIT = "sample", "unit"
"""The names of the two dimensions."""


def labelled_array(
    values: Float[np.ndarray, "samples units"],
    units: Units,
    samples: pd.DataFrame,
    *,
    name: str,
    attrs: dict[str, Any],
) -> "DataArray":
    """Put names on the rows and columns of a matrix.

    Args:
        values: The matrix; the array shares it, and cannot be written to.
        units: The columns.
        samples: The rows. A column that bears the name of a coordinate of the units, or ``unit``,
            is called ``sample_NAME``.
        name: The array's name.
        attrs: The array's attributes.

    Returns:
        The array. ``sel`` takes ``layer``, ``hook_name`` and ``index``.

    Raises:
        ModulesError: If xarray is not installed.
    """
    xarray = _xarray()
    of_units = {
        "layer": np.asarray(units.layers)[units.hook],
        "hook_name": np.asarray(units.hook_names, dtype=object)[units.hook],
        "index": units.index.astype(np.int64),
    }
    taken = {*of_units, UNIT}
    of_samples = {
        f"sample_{column}" if column in taken else column: samples[column].to_numpy()
        for column in samples.columns
    }
    shared = values.view()
    shared.flags.writeable = False  # the matrix is frozen
    array = xarray.DataArray(
        shared,
        dims=(SAMPLE, UNIT),
        coords={column: (SAMPLE, of_sample) for column, of_sample in of_samples.items()}
        | {column: (UNIT, of_unit) for column, of_unit in of_units.items()},
        name=name,
        attrs=attrs,
    )
    # An index each, and none of several levels: such an array can be written to a netCDF file.
    for column in of_units:
        array = array.set_xindex(column)
    return array


def _xarray() -> ModuleType:
    """Import xarray, which is an optional dependency and slow to import.

    Raises:
        ModulesError: If xarray is not installed.
    """
    try:
        import xarray
    except ImportError as error:
        raise ModulesError(
            "to_xarray needs xarray, of the extra 'xarray'. Run: pip install 'tl-modules[xarray]'"
        ) from error
    return xarray
