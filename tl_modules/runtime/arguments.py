"""Checking the types of a public function's arguments against its annotations.

A function decorated with ``@checked`` refuses an argument that does not fit its annotation before
it does anything else. So no public function has to check types itself.
"""

import functools
import inspect
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from numbers import Integral, Real
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, ParamSpec, TypeVar, Union, get_args, get_origin

import numpy as np

from tl_modules.errors import ModulesError, shown

_Parameters = ParamSpec("_Parameters")
_Result = TypeVar("_Result")


@dataclass(frozen=True)
class Elsewhere:
    """Marks an annotation, ``Annotated[..., Elsewhere(said)]``, that ``checked`` does not check."""

    said: str
    """The type's description in messages."""


@dataclass(frozen=True)
class Remedy:
    """Marks an annotation, ``Annotated[..., Remedy(said)]``, with the remedy for its errors."""

    said: str
    """The sentence that says what to pass instead."""


_NAMES: dict[Any, tuple[str, str]] = {
    None: ("None", "None"),
    NoneType: ("None", "None"),
    int: ("a whole number", "whole numbers"),
    float: ("a number", "numbers"),
    bool: ("True or False", "flags"),
    str: ("a text", "texts"),
    Path: ("a path", "paths"),
    "ActivationMatrix": ("an activation matrix", "activation matrices"),
    "ActivationStore": ("an activation store", "activation stores"),
    "DataFrame": ("a pandas frame", "pandas frames"),
    "Detectors": ("what compare_detectors returned", "results of compare_detectors"),
    "HasCores": ("what causal_cores returned", "results of causal_cores"),
    "HasLabelRefits": ("what annotate returned", "results of annotate"),
    "HasUnitMeans": ("an object with units and their means", "objects with units and their means"),
    "HookedModel": ("a TransformerBridge or HookedTransformer", "hooked models"),
    "Module": ("one module", "modules"),
    "ModuleSet": ("a module set", "module sets"),
    "Thoughts": ("what thought_states returned", "results of thought_states"),
    "Hierarchy": ("what hierarchy returned", "results of hierarchy"),
    "Target": ("a module or another target", "modules or other targets"),
    "Optimizer": ("a torch.optim optimizer", "torch.optim optimizers"),
    "Tensor": ("a tensor", "tensors"),
    "Units": ("units", "sets of units"),
    "ndarray": ("a NumPy array", "NumPy arrays"),
}
"""Descriptions of types in messages, singular and plural, by the type or by its name."""

_REMEDIES = {
    "HookedModel": "Boot the model with TransformerLens first, e.g. "
    "TransformerBridge.boot_transformers(name).",
    "ActivationMatrix": "Pass what tlm.collect(model, prompts) returned, or load a file with "
    "tlm.ActivationMatrix.load(path).",
    "ModuleSet": "Pass the ModuleSet that discover returned, or load one with "
    "tlm.ModuleSet.load(path).",
    "Module": "Pass the modules that discover returned: modules[0] is one of them.",
    "Target": "Pass the modules that discover returned: modules[0] is one of them.",
    "HasUnitMeans": "Pass what tlm.collect or tlm.collect_reference returned.",
    "DataFrame": "Pass a pandas frame, such as the function that makes one returned.",
    "Optimizer": "Make one of the model's parameters: torch.optim.Adam(model.parameters()).",
    "Tensor": "Pass a tensor: torch.tensor(...).",
    "ndarray": "Pass an array: np.array(...).",
}
"""Remedies by the name of a type; the first of a parameter's types that is listed here counts."""


def checked(function: Callable[_Parameters, _Result]) -> Callable[_Parameters, _Result]:
    """Decorate a function so that it refuses arguments that do not fit their annotations.

    Types are checked, also those of a list's elements; ranges, shapes and choices are not. NumPy's
    numbers count as numbers. True does not count as a whole number, nor a text as a list of texts.

    Args:
        function: The function.

    Returns:
        A function that raises ModulesError for an argument of a wrong type.

    >>> @checked
    ... def double(n: int) -> int:
    ...     return 2 * n
    >>> double("2")
    Traceback (most recent call last):
    tl_modules.errors.ModulesError: n should be a whole number; got '2'.
    """
    signature = inspect.signature(function)

    @functools.wraps(function)
    def call(*args: _Parameters.args, **kwargs: _Parameters.kwargs) -> _Result:
        try:
            given = signature.bind(*args, **kwargs).arguments
        except TypeError:  # Python's own message below names the missing or unknown argument
            given = {}
        for name, value in given.items():
            parameter = signature.parameters[name]
            if _is_annotated(parameter) and value is not parameter.default:
                check_argument(name, value, parameter.annotation)
        return function(*args, **kwargs)

    return call


def _is_annotated(parameter: inspect.Parameter) -> bool:
    """Whether a parameter has an annotation that describes one value.

    A text is the name of a class that was not yet defined, and cannot be checked.
    """
    several = parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    hint = parameter.annotation
    return not several and hint is not parameter.empty and not isinstance(hint, str)


def check_argument(name: str, value: object, hint: Any) -> None:
    """Refuse a value that does not fit a type annotation.

    Args:
        name: The value's name in the message.
        value: The value that the caller passed.
        hint: The annotation: a class, or an annotation of ``typing`` or ``jaxtyping``.

    Raises:
        ModulesError: If the value does not fit.

    >>> check_argument("paths", "a.csv", list[str])
    Traceback (most recent call last):
    tl_modules.errors.ModulesError: paths should be a list of texts; got 'a.csv'. Put it in a list.
    """
    if fits(value, hint):
        return
    for choices, one in _elements(value, hint):
        check_argument(name, one, choices)  # which of them is none of the choices
    remedy = _remedy(value, hint)
    wanted = _described(hint)
    raise ModulesError(
        f"{name} should be {wanted}; got {shown(value)}{_lacking(value, hint)}. {remedy}".rstrip()
    )


def _elements(value: object, hint: Any) -> Iterator[tuple[Any, object]]:
    """The texts in a list of choices, each with the choices."""
    inner = get_args(hint)
    if isinstance(value, list | tuple) and len(inner) == 1 and get_origin(inner[0]) is Literal:
        yield from ((inner[0], one) for one in value if isinstance(one, str))


def fits(value: object, hint: Any) -> bool:
    """Whether a value fits a type annotation; shapes and a mapping's keys are not checked.

    >>> fits(np.int64(3), int), fits(True, int), fits(3, float | None)
    (True, False, True)
    """
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return any(fits(value, alternative) for alternative in inner)
    if origin is Annotated:
        return isinstance(hint.__metadata__[0], Elsewhere) or fits(value, inner[0])
    if origin is Literal:
        return isinstance(value, str) and value in inner
    if origin is Callable:
        return callable(value)
    if origin is not None:
        return _container_fits(value, origin, inner)
    if hint in _SIMPLE:
        return _SIMPLE[hint](value)
    arrays = getattr(hint, "array_type", hint)  # the class behind a jaxtyping annotation
    return arrays is Any or not isinstance(arrays, type) or isinstance(value, arrays)


def _is_number(value: object, kind: type) -> bool:
    return isinstance(value, kind) and not isinstance(value, bool)


_SIMPLE: dict[Any, Callable[[Any], bool]] = {
    None: lambda value: value is None,
    int: lambda value: _is_number(value, Integral),
    float: lambda value: _is_number(value, Real),
    bool: lambda value: isinstance(value, bool | np.bool_),
    Path: lambda value: isinstance(value, os.PathLike),
}
"""Checks for the types that accept more, or less, than their own instances."""


def _container_fits(value: Any, origin: type, inner: tuple[Any, ...]) -> bool:
    """Whether a value is a list, a tuple or a mapping with elements of the right types."""
    if issubclass(origin, tuple) and Ellipsis not in inner:
        return (
            isinstance(value, tuple | list)
            and len(value) == len(inner)
            and all(map(fits, value, inner))
        )
    if not isinstance(value, origin) or isinstance(value, str | bytes):
        return False
    if issubclass(origin, Mapping):
        return all(fits(element, inner[1]) for element in value.values())
    if isinstance(value, Mapping):  # iterable over its keys, but not a list of them
        return False
    # Checking an iterator would use it up; the function that reads its elements checks them.
    return isinstance(value, Iterator) or all(fits(element, inner[0]) for element in value)


def _described(hint: Any, *, many: bool = False) -> str:
    """A type annotation as messages describe it."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        *first, last = dict.fromkeys(
            _described(part, many=many) for part in inner if part is not NoneType
        )
        return f"{', '.join(first)} or {last}" if first else last
    if origin is Annotated:
        mark = hint.__metadata__[0]
        return mark.said if isinstance(mark, Elsewhere) else _described(inner[0], many=many)
    if origin is Literal:
        return f"one of {', '.join(map(repr, inner))}"
    if origin is Callable:
        return "functions" if many else "a function"
    if origin is not None:
        return _container_described(origin, inner, many=many)
    arrays = getattr(hint, "array_type", hint)
    name = getattr(arrays, "__name__", str(arrays))
    return _NAMES.get(arrays, _NAMES.get(name, (f"a {name}", f"{name}s")))[many]


def _container_described(origin: type, inner: tuple[Any, ...], *, many: bool) -> str:
    kind = "mapping" if issubclass(origin, Mapping) else "list"
    of = inner[-1] if kind == "mapping" else inner[0]
    if issubclass(origin, tuple) and Ellipsis not in inner:
        if len(set(inner)) > 1:
            return f"a tuple of {' and '.join(map(_described, inner))}"
        kind = "pair" if len(inner) == 2 else f"tuple of {len(inner)}"
    said = f"{kind}s" if many else f"a {kind}"
    return said if of is Any else f"{said} of {_described(of, many=True)}"


def _remedy(value: object, hint: Any) -> str:
    """The remedy in a message about a value that does not fit an annotation; may be empty."""
    for part in _parts(hint):
        if get_origin(part) is Annotated and isinstance(part.__metadata__[0], Remedy):
            return part.__metadata__[0].said
        if get_origin(part) is Callable:
            return "Pass the function itself."
        if isinstance(value, str) and get_origin(part) is not None and fits([value], part):
            return "Put it in a list."
        arrays = getattr(part, "array_type", part)
        remedy = _REMEDIES.get(getattr(arrays, "__name__", ""))
        if remedy is not None:
            return remedy
    return ""


def _parts(hint: Any) -> Iterator[Any]:
    """Yield an annotation, then its alternatives and the types of its elements, recursively."""
    yield hint
    if get_origin(hint) is Callable:  # a function's own argument types are not passed here
        return
    for inner in get_args(hint):
        if inner is not Ellipsis and not isinstance(inner, list | str):
            yield from _parts(inner)


def _lacking(value: object, hint: Any) -> str:
    """The end of a message: the attributes that an object lacks for a protocol; may be empty."""
    if not getattr(hint, "_is_protocol", False) or isinstance(value, str | Real | NoneType):
        return ""
    missing = [name for name in vars(hint) if name[0] != "_" and not hasattr(value, name)]
    return f", which lacks {', '.join(missing)}"
