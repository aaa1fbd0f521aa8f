"""Columns that the package adds to a user's frame, none of which replaces one of the user's."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd

from tl_modules.runtime.call_warnings import warn_user

_PREFIX = "tlm_"


def free_name(frame: pd.DataFrame, name: str, values: Any) -> str:
    """What a new column is called in a frame that may have one of that name.

    Args:
        frame: The user's.
        name: The usual name.
        values: The new column's numbers.

    Returns:
        The usual name where the frame has no such column, or one of the same numbers (a frame that
        came out of this package has). Otherwise the name with ``tlm_`` before it, and a number
        behind it where that is taken too.

    >>> frame = pd.DataFrame({"prompt": ["a", "b"], "n_tokens": [7, 8]})
    >>> free_name(frame, "n_tokens", [7, 8]), free_name(frame, "n_tokens", [2, 2])
    ('n_tokens', 'tlm_n_tokens')
    """
    names = [name, f"{_PREFIX}{name}"]
    while names[-1] in frame.columns:
        names.append(f"{_PREFIX}{name}_{len(names)}")
    return next(each for each in names if each not in frame.columns or _is(frame[each], values))


def beside(frame: pd.DataFrame, columns: Mapping[str, Any], *, warn: bool = False) -> pd.DataFrame:
    """The frame with new columns of numbers beside the user's own.

    Args:
        frame: The user's.
        columns: The new columns by their usual names; see ``free_name``.
        warn: Warn of those that get another name.

    Returns:
        A new frame.
    """
    named = {name: free_name(frame, name, values) for name, values in columns.items()}
    if warn:
        warn_renamed(named)
    return frame.assign(**{named[name]: values for name, values in columns.items()})


def warn_renamed(named: Mapping[str, str]) -> None:
    """Warn that new columns have other names than usual.

    Args:
        named: The columns' names by their usual names.
    """
    taken = {usual: name for usual, name in named.items() if usual != name}
    if taken:
        warn_user(
            f"The samples have columns of their own named {_listed(taken)}, with other values: "
            f"those stay as they are, and the new ones are named {_listed(taken.values())}. Rename "
            "yours beforehand to have the new ones under their usual names.",
        )


def _is(column: Any, values: Any) -> bool:
    """Whether a column holds these numbers, perhaps as text from a CSV file."""
    try:
        numbers = (np.asarray(each, dtype=np.float64) for each in (column, values))
        return np.array_equal(*numbers, equal_nan=True)
    except (TypeError, ValueError, OverflowError):
        return False


def _listed(names: Iterable[str]) -> str:
    return ", ".join(map(repr, names))
