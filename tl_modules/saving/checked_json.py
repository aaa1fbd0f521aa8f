"""Parsing and checking the JSON of untrusted files, before any of it is used."""

import json
from collections.abc import Callable
from math import isfinite
from typing import Any

import numpy as np
from jaxtyping import Shaped

from tl_modules.errors import ModulesError

PARSE_ERRORS = (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, MemoryError)
"""Exceptions raised while parsing malformed input."""

_DEEPEST = 100
_LARGEST = float(np.finfo(np.float32).max)


def parse_json(text: str | bytes) -> Any:
    """Parse JSON of bounded depth, which can be walked and saved again without deep recursion.

    Raises:
        ValueError: If the text is not valid JSON, or is nested more than 100 levels deep.

    >>> parse_json("[" * 101 + "]" * 101)
    Traceback (most recent call last):
    ValueError: lists and objects are nested more than 100 levels deep
    """
    too_deep = ValueError(f"lists and objects are nested more than {_DEEPEST} levels deep")
    try:
        value = json.loads(text)
    except RecursionError as error:
        raise too_deep from error
    # Level by level rather than recursively, so that the check itself needs no deep stack.
    level = [value]
    for _ in range(_DEEPEST):
        level = [item for held in level if isinstance(held, list | dict) for item in _items(held)]
        if not level:
            return value
    raise too_deep


def _items(held: list[Any] | dict[str, Any]) -> Any:
    return held.values() if isinstance(held, dict) else held


def checked_text(value: Any) -> str:
    """The value, checked to be a text.

    Raises:
        TypeError: If the value is not a text.
    """
    if not isinstance(value, str):
        raise TypeError(f"{value!r:.80} is not a text")
    return value


def checked_number(value: Any) -> float:
    """The value as a float, checked to be a finite number.

    Raises:
        TypeError: If the value is not a finite number.
        OverflowError: If the value is a whole number beyond the range of floats.
    """
    if type(value) not in (int, float) or not isfinite(value):
        raise TypeError(f"{value!r:.80} is not a finite number")
    return float(value)


def checked_whole_number(value: Any, least: int = -(2**63)) -> int:
    """The value, checked to be a whole number of at most 64 bits.

    Raises:
        TypeError: If the value is not such a number, or is below ``least``.
    """
    # type() rather than isinstance(): True is an int to Python.
    if type(value) is not int or not least <= value < 2**63:
        raise TypeError(f"{value!r:.80} is not a whole number of at least {least}")
    return value


def checked_flag(value: Any) -> bool:
    """The value, checked to be true or false.

    Raises:
        TypeError: If the value is neither.
    """
    if not isinstance(value, bool):
        raise TypeError(f"{value!r:.80} is neither true nor false")
    return value


def checked_list(value: Any) -> list[Any]:
    """The value, checked to be a list.

    Raises:
        TypeError: If the value is not a list.
    """
    if not isinstance(value, list):
        raise TypeError(f"{value!r:.80} is not a list")
    return value


def checked_entries(value: Any, check: Callable[[Any], Any]) -> tuple[Any, ...]:
    """A list's entries, each checked by a function.

    Args:
        value: The list.
        check: Returns the checked entry.

    Raises:
        TypeError: If the value is not a list, or as ``check`` raises.
    """
    return tuple(map(check, checked_list(value)))


def check_float32s(name: str, array: Shaped[np.ndarray, "..."]) -> None:
    """Check that an array holds finite floats that fit into float32, in any float format.

    Raises:
        ModulesError: If the array holds anything else.
    """
    # A comparison with NaN is false, so <= refuses NaN too.
    if array.dtype.kind != "f" or not (np.abs(array.astype(np.float64)) <= _LARGEST).all():
        raise ModulesError(
            f"{name} should be floats that are finite in float32; the array is {array.dtype}, and "
            "may hold NaN or infinite values. Compute it again, or fetch an intact copy."
        )
