"""Warnings, each given once per public call and pointing at the caller's code."""

import sys
import warnings
from collections.abc import Callable
from contextvars import ContextVar
from functools import wraps
from typing import ParamSpec, TypeVar

_P = ParamSpec("_P")
_R = TypeVar("_R")

_given: ContextVar[set[str] | None] = ContextVar("_given", default=None)
"""The kinds of warnings that the running call has given; None outside a decorated call."""

_GIVEN_BY = "given_by"
"""The attribute that marks a warning of this package."""


def warns_once(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """Decorate a function that may give the same warning several times.

    ``warn_once`` then gives each kind of warning once per call of the function, calls inside it
    included.
    """

    @wraps(function)
    def wrapper(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        if _given.get() is not None:
            return function(*args, **kwargs)
        token = _given.set(set())
        try:
            return function(*args, **kwargs)
        finally:
            _given.reset(token)

    return wrapper


def warn_once(kind: str, message: str) -> None:
    """Warn, unless the running call has already given a warning of this kind.

    Args:
        kind: The kind of warning.
        message: The warning's text.
    """
    given = _given.get()
    if given is not None:
        if kind in given:
            return
        given.add(kind)
    warn_user(message)


def warn_user(message: str) -> None:
    """Warn, with the place in the code that called this package.

    Args:
        message: The warning's text.
    """
    warning = UserWarning(message)
    vars(warning)[_GIVEN_BY] = "tl_modules"
    warnings.warn(warning, stacklevel=_outside())


def is_own(warning: Warning | str) -> bool:
    """Whether this package gave a warning."""
    return isinstance(warning, UserWarning) and _GIVEN_BY in vars(warning)


def _outside() -> int:
    """The stack level of the code that called this package, counted from ``warn_user``."""
    level, outermost = 0, 1
    frame = sys._getframe(1)
    while frame is not None:
        level += 1
        # The outermost frame of this package, since a public call may pass through user code, such
        # as a metric, and back.
        if frame.f_globals.get("__name__", "").partition(".")[0] == "tl_modules":
            outermost = level
        frame = frame.f_back
    return outermost + 1
