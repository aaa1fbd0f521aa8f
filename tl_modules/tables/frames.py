"""Frames of samples as JSON, and back."""

import operator
from collections.abc import Callable
from datetime import date, time, timedelta
from typing import Any

import numpy as np
import pandas as pd

from tl_modules.errors import ModulesError
from tl_modules.saving.checked_json import checked_list
from tl_modules.tables.text import HALF

_DEEPEST = 90
"""Deepest nesting of a sample's value. Files may be nested 100 levels deep, and their samples begin
a few levels in."""


_LONGEST_INT = 10_000
"""Largest number of bits of a whole number; Python refuses to write longer ones as text."""


_PLAIN: dict[Callable[[Any], Any], tuple[type, ...]] = {
    str.__str__: (str,),  # also enumerations and NumPy's strings
    bool: (bool, np.bool_),
    int: (int, np.integer),
    float: (float, np.floating),
}
"""Conversions of NumPy's types, and of types that derive from JSON's, to JSON's types."""


def frame_to_json(frame: pd.DataFrame) -> dict[str, list[Any]]:
    """Describe a frame as lists by column, with None for pandas' missing values.

    Raises:
        ModulesError: As ``plain_frame`` raises.
    """
    frame = plain_frame(frame)
    columns = {str(name): frame[name].tolist() for name in frame.columns}
    return {
        name: [None if v is pd.NA or v is pd.NaT else v for v in values]
        for name, values in columns.items()
    }


def plain_frame(frame: pd.DataFrame) -> pd.DataFrame:
    """Convert a frame's columns so that they can be saved as JSON and loaded again.

    In columns of objects, NumPy's numbers become Python's, and arrays and tuples become lists.
    Dates and times become text in ISO 8601, as ``isoformat`` writes it. Periods become the text
    that pandas shows.

    Args:
        frame: The frame.

    Returns:
        The same frame if nothing has to change, otherwise a copy.

    Raises:
        ModulesError: If a column holds values that JSON has no form for, two columns have one
            name, or a name holds an unpaired surrogate.

    >>> plain_frame(pd.DataFrame({"asked": [pd.Timestamp("2024-01-31")]}))["asked"].tolist()
    ['2024-01-31T00:00:00']
    """
    _check_names(frame)
    changed = {}
    for name in frame.columns:
        column = frame[name]
        if _is_plain_type(column.dtype):
            continue
        values = column.tolist()
        try:
            plain = [_plain(value) for value in values]
        except (TypeError, RecursionError) as error:
            raise ModulesError(
                f"The samples' column {name!r} should hold values that JSON can save; {error}. "
                "Drop the column, or turn its values into text first."
            ) from error
        if any(new is not old for new, old in zip(plain, values, strict=True)):
            texts = all(value is None or isinstance(value, str) for value in plain)
            changed[name] = json_column(plain) if texts else pd.Series(plain, dtype=object)
    if changed:
        frame = frame.copy()
    for name, values in changed.items():
        frame[name] = pd.Series(values).set_axis(frame.index)
    return frame


def _is_plain_type(dtype: Any) -> bool:
    """Whether JSON holds all values of a column of this type."""
    if isinstance(dtype, np.dtype):
        return dtype.kind in "biu" or (dtype.kind == "f" and dtype.itemsize <= 8)
    return isinstance(dtype, pd.StringDtype)


def _check_names(frame: pd.DataFrame) -> None:
    """Refuse column names that a file cannot distinguish or cannot hold."""
    names = [str(name) for name in frame.columns]
    if len(set(names)) < len(names):
        raise ModulesError(
            f"The samples' columns should have different names; got {names}. Rename one."
        )
    for name in names:
        if HALF.search(name):
            raise ModulesError(
                f"The samples' columns should have valid text as names; {name!r} holds half of a "
                "character (an unpaired surrogate). Rename that column."
            )


def _plain(value: Any, deep: int = 0) -> Any:
    """Convert a value to JSON's types; a value of JSON's types is returned as the same object.

    Raises:
        TypeError: If JSON has no form for the value, or a file with the value could not be read.
    """
    kind = type(value)
    if value is None or kind in (str, float, bool):
        return value
    if value is pd.NA or value is pd.NaT:
        return None
    if deep > _DEEPEST:
        raise TypeError(f"lists and objects are nested more than {_DEEPEST} levels deep")
    if isinstance(value, list | tuple | dict | np.ndarray):
        return _plain_items(value, deep + 1)
    if isinstance(value, date | time | timedelta | np.datetime64 | np.timedelta64 | pd.Period):
        return _iso(value)
    if kind is int and value.bit_length() < _LONGEST_INT:
        return value
    for plain, kinds in _PLAIN.items():
        if isinstance(value, kinds) and kind is not int:
            return plain(value)
    raise TypeError(f"JSON has no form for this {kind.__name__}")


def _iso(value: Any) -> str | None:
    """A date, a time, a duration or a period as text; None for a missing one."""
    if isinstance(value, np.datetime64):
        value = pd.Timestamp(value)
    if isinstance(value, timedelta | np.timedelta64):
        value = pd.Timedelta(value)
    if value is pd.NaT:
        return None
    return str(value) if isinstance(value, pd.Period) else value.isoformat()


def _plain_items(value: Any, deep: int) -> Any:
    """Convert a list, a tuple, an array or a dict, and its items, to JSON's types."""
    if not isinstance(value, dict):
        items = [_plain(item, deep) for item in value]
        same = isinstance(value, list) and all(map(operator.is_, items, value))
        return value if same else items
    odd = next((key for key in value if not isinstance(key, str)), None)
    if odd is not None:  # json.dumps would silently turn the key into text
        raise TypeError(f"an object's key {odd!r:.80} is not a text")
    plain = {key: _plain(item, deep) for key, item in value.items()}
    return value if all(plain[key] is item for key, item in value.items()) else plain


def frame_from_json(columns: dict[str, list[Any]]) -> pd.DataFrame:
    """Rebuild the frame that ``frame_to_json`` described.

    Raises:
        TypeError: If a column is not a list.
        ValueError: If the columns have different lengths.
    """
    return pd.DataFrame(
        {name: json_column(checked_list(values)) for name, values in columns.items()}
    )


def n_rows(columns: dict[str, list[Any]]) -> int:
    """The number of rows of the frame that ``frame_to_json`` described."""
    return len(next(iter(columns.values()), []))


def json_column(values: list[Any]) -> Any:
    """Convert a list of JSON values to a column of a frame.

    pandas' text type cannot hold unpaired surrogates, so such texts stay objects. Whole numbers
    beside a missing value become pandas' ``Int64``, since pandas would otherwise turn 1 into 1.0.

    >>> json_column([1, None]).tolist()
    [1, <NA>]
    """
    if any(isinstance(value, str) and HALF.search(value) for value in values):
        return pd.Series(values, dtype=object)
    kinds = {type(value) for value in values}
    if kinds == {int, type(None)} and all(-(2**63) <= value < 2**63 for value in values if value):
        return pd.array(values, dtype="Int64")
    return values
