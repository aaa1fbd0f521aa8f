"""New columns in a user's frame, which never replace the user's columns."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd

from tl_modules.runtime.call_warnings import warn_user

_PREFIX = "tlm_"


def free_name(frame: pd.DataFrame, name: str, values: Any) -> str:
    """The name of a new column in a frame that may already have a column of that name.

    Args:
        frame: The user's frame.
        name: The usual name.
        values: The new column's numbers.

    Returns:
        The usual name if it is free, or if the frame's column holds the same numbers, as in a
        frame that this package returned. Otherwise ``tlm_`` plus the name, with a number after it
        if that name is taken too.

    >>> frame = pd.DataFrame({"prompt": ["a", "b"], "n_tokens": [7, 8]})
    >>> free_name(frame, "n_tokens", [7, 8]), free_name(frame, "n_tokens", [2, 2])
    ('n_tokens', 'tlm_n_tokens')
    """
    names = [name, f"{_PREFIX}{name}"]
    while names[-1] in frame.columns:
        names.append(f"{_PREFIX}{name}_{len(names)}")
    return next(free for free in names if free not in frame.columns or _holds(frame[free], values))


def beside(frame: pd.DataFrame, columns: Mapping[str, Any], *, warn: bool = False) -> pd.DataFrame:
    """Add columns of numbers to a frame, beside the user's columns.

    Args:
        frame: The user's frame.
        columns: The new columns by their usual names; see ``free_name``.
        warn: Warn if a column gets another name than usual.

    Returns:
        A new frame.
    """
    named = {name: free_name(frame, name, values) for name, values in columns.items()}
    if warn:
        warn_renamed(named)
    return frame.assign(**{named[name]: values for name, values in columns.items()})


def warn_renamed(named: Mapping[str, str]) -> None:
    """Warn of new columns whose names are not the usual ones.

    Args:
        named: The new columns' names by their usual names.
    """
    taken = {usual: name for usual, name in named.items() if usual != name}
    if taken:
        warn_user(
            f"The samples already have columns named {_quoted(taken)}, with other values. They "
            f"stay unchanged, and the new columns are named {_quoted(taken.values())}. Rename your "
            "columns first if the new ones should have their usual names.",
        )


def _holds(column: Any, values: Any) -> bool:
    """Whether a column holds these numbers, also if a CSV file made them text."""
    try:
        numbers = (np.asarray(array, dtype=np.float64) for array in (column, values))
        return np.array_equal(*numbers, equal_nan=True)
    except (TypeError, ValueError, OverflowError):
        return False


def _quoted(names: Iterable[str]) -> str:
    return ", ".join(map(repr, names))
