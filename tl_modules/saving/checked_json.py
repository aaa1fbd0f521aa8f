"""What files claim, checked before it is used: JSON of bounded depth, and values of their types."""

import json
from collections.abc import Callable
from math import isfinite
from typing import Any

import numpy as np
from jaxtyping import Shaped

from tl_modules.errors import ModulesError

BROKEN = (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, MemoryError)
"""What it ends in to build something of parts that are missing, or of other types or sizes."""

_DEEPEST = 100
_LARGEST = float(np.finfo(np.float32).max)


def parse_json(text: str | bytes) -> Any:
    """JSON that can be walked, shown and saved again without running out of stack.

    Raises:
        ValueError: If it is no JSON, or lists and objects stand in each other more than 100 deep.

    >>> parse_json("[" * 101 + "]" * 101)
    Traceback (most recent call last):
    ValueError: lists and objects stand in each other more than 100 deep
    """
    deep = ValueError(f"lists and objects stand in each other more than {_DEEPEST} deep")
    try:
        value = json.loads(text)
    except RecursionError as error:
        raise deep from error
    level = [value]
    for _ in range(_DEEPEST):
        level = [item for held in level if isinstance(held, list | dict) for item in _items(held)]
        if not level:
            return value
    raise deep


def _items(held: list[Any] | dict[str, Any]) -> Any:
    return held.values() if isinstance(held, dict) else held


def text(value: Any) -> str:
    """The value, if it is a text.

    Raises:
        TypeError: If it is none.
    """
    if not isinstance(value, str):
        raise TypeError(f"{value!r:.80} is no text")
    return value


def number(value: Any) -> float:
    """The value as a float, if it is a finite number.

    Raises:
        TypeError: If it is none.
        OverflowError: If it is a whole number that no float comes near.
    """
    if type(value) not in (int, float) or not isfinite(value):
        raise TypeError(f"{value!r:.80} is no finite number")
    return float(value)


def whole(value: Any, least: int = -(2**63)) -> int:
    """The value, if it is a whole number of at most 64 bits.

    Raises:
        TypeError: If it is none, or below ``least``.
    """
    if type(value) is not int or not least <= value < 2**63:
        raise TypeError(f"{value!r:.80} is no whole number from {least} up")
    return value


def flag(value: Any) -> bool:
    """The value, if it is true or false.

    Raises:
        TypeError: If it is neither.
    """
    if not isinstance(value, bool):
        raise TypeError(f"{value!r:.80} is neither true nor false")
    return value


def listed(value: Any) -> list[Any]:
    """The value, if it is a list.

    Raises:
        TypeError: If it is none.
    """
    if not isinstance(value, list):
        raise TypeError(f"{value!r:.80} is no list")
    return value


def rows(value: Any, read: Callable[[Any], Any]) -> tuple[Any, ...]:
    """A list's entries, each checked by ``read``.

    Raises:
        TypeError: If it is no list, or as ``read`` raises.
    """
    return tuple(map(read, listed(value)))


def check_float32s(name: str, array: Shaped[np.ndarray, "..."]) -> None:
    """Refuse an array of anything but finite floats that fit into 32 bits, in any float format.

    Raises:
        ModulesError: If there is one.
    """
    if (
        array.dtype.kind != "f" or not (np.abs(array.astype(np.float64)) <= _LARGEST).all()
    ):  # nor is NaN
        raise ModulesError(
            f"{name} should be floats, finite also in float32; they are {array.dtype}, some "
            "perhaps NaN or infinite. Make them anew, or fetch an intact copy."
        )
