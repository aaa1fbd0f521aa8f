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
"""How deep a sample's value may nest: files are read 100 deep, and hold the samples some way in."""


_LONGEST_INT = 10_000
"""Bits; Python writes no longer numbers as text."""


_PLAIN: dict[Callable[[Any], Any], tuple[type, ...]] = {
    str.__str__: (str,),  # enumerations too, and NumPy's strings
    bool: (bool, np.bool_),
    int: (int, np.integer),
    float: (float, np.floating),
}
"""What becomes of values of types that derive from JSON's, and of NumPy's."""


def frame_to_json(frame: pd.DataFrame) -> dict[str, list[Any]]:
    """A frame as lists by column; pandas' missing values as None.

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
    """A frame whose columns can be saved as JSON and loaded again.

    NumPy's numbers in columns of objects become Python's, arrays and tuples lists, and dates and
    times text in ISO 8601, as ``isoformat`` writes it; periods become the text that pandas shows.

    Args:
        frame: The frame.

    Returns:
        The same frame, or a copy with other columns where some are changed.

    Raises:
        ModulesError: If a column holds what JSON cannot, its name half of a character, or two have
            one name.

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
                f"The samples' column {name!r} holds values that cannot be saved as JSON "
                f"({error}). Drop the column, or turn its values into text first."
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
    """Refuse names of columns that a file does not keep apart, or cannot hold."""
    names = [str(name) for name in frame.columns]
    if len(set(names)) < len(names):
        raise ModulesError(
            f"The samples' columns should have different names; got {names}. Rename one."
        )
    for name in names:
        if HALF.search(name):
            raise ModulesError(
                f"The samples' columns should have whole text as names; {name!r} holds half of a "
                "character. Rename it."
            )


def _plain(value: Any, deep: int = 0) -> Any:
    """A value as JSON holds it; the same object where it does already.

    Raises:
        TypeError: If JSON has no such value, or no file could be read with it.
    """
    kind = type(value)
    if value is None or kind in (str, float, bool):
        return value
    if value is pd.NA or value is pd.NaT:
        return None
    if deep > _DEEPEST:
        raise TypeError(f"lists and objects stand in each other more than {_DEEPEST} deep")
    if isinstance(value, list | tuple | dict | np.ndarray):
        return _plain_items(value, deep + 1)
    if isinstance(value, date | time | timedelta | np.datetime64 | np.timedelta64 | pd.Period):
        return _iso(value)
    if kind is int and value.bit_length() < _LONGEST_INT:
        return value
    for plain, kinds in _PLAIN.items():
        if isinstance(value, kinds) and kind is not int:
            return plain(value)
    raise TypeError(f"a {kind.__name__} that is no number, text, list or object of JSON's")


def _iso(value: Any) -> str | None:
    """A date, a time, a duration or a period as text."""
    if isinstance(value, np.datetime64):
        value = pd.Timestamp(value)
    if isinstance(value, timedelta | np.timedelta64):
        value = pd.Timedelta(value)
    if value is pd.NaT:
        return None
    return str(value) if isinstance(value, pd.Period) else value.isoformat()


def _plain_items(value: Any, deep: int) -> Any:
    """A list, a tuple, an array or a dict as JSON holds it."""
    if not isinstance(value, dict):
        items = [_plain(item, deep) for item in value]
        same = isinstance(value, list) and all(map(operator.is_, items, value))
        return value if same else items
    odd = next((key for key in value if not isinstance(key, str)), None)
    if odd is not None:  # JSON would make a text of it without a word
        raise TypeError(f"an object's key {odd!r:.80} is no text")
    plain = {key: _plain(item, deep) for key, item in value.items()}
    return value if all(plain[key] is item for key, item in value.items()) else plain


def frame_from_json(columns: dict[str, list[Any]]) -> pd.DataFrame:
    """The frame that ``frame_to_json`` described.

    Raises:
        TypeError: If a column is no list.
        ValueError: If the columns have different lengths.
    """
    return pd.DataFrame(
        {name: json_column(checked_list(values)) for name, values in columns.items()}
    )


def n_rows(columns: dict[str, list[Any]]) -> int:
    """How many rows the frame that ``frame_to_json`` described has."""
    return len(next(iter(columns.values()), []))


def json_column(values: list[Any]) -> Any:
    """A column of what JSON holds, for a frame.

    pandas' own text has no halves of characters; and it would make floats of whole numbers beside
    a missing one, so that 1 would read 1.0.

    >>> json_column([1, None]).tolist()
    [1, <NA>]
    """
    if any(isinstance(value, str) and HALF.search(value) for value in values):
        return pd.Series(values, dtype=object)
    kinds = {type(value) for value in values}
    if kinds == {int, type(None)} and all(-(2**63) <= value < 2**63 for value in values if value):
        return pd.array(values, dtype="Int64")
    return values
