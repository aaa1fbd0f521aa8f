"""What the package offers today: methods, baselines, readings and kinds of control."""

import inspect
import typing
from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Int

import tl_modules as tlm


def choices(function: Callable[..., Any], parameter: str) -> tuple[str, ...]:
    """The values of a parameter that is a ``Literal``; none if the function has no such one."""
    plain = inspect.unwrap(function)
    if parameter not in inspect.signature(plain).parameters:
        return ()
    return typing.get_args(typing.get_type_hints(plain)[parameter])


METHODS = choices(tlm.discover, "method") or ("ulcmod",)
BASELINES = choices(tlm.discover_baseline, "method")
READINGS = choices(tlm.collect, "weight")
CONTROLS = choices(tlm.module_effects, "controls")
_HAS_METHOD = bool(choices(tlm.discover, "method"))
_CHOICE_HAS_METHOD = bool(choices(tlm.choose_n_modules, "method"))


def unit_labels(
    acts: tlm.ActivationMatrix, method: str, n_modules: int, seed: int
) -> Int[np.ndarray, " units"]:
    """The units' labels by one of ``METHODS`` or ``BASELINES``."""
    if method in METHODS:
        named: dict[str, Any] = {"method": method} if _HAS_METHOD else {}
        found = tlm.discover(acts, n_modules, seed=seed, progress=False, **named)
    else:
        baseline: Any = method
        found = tlm.discover_baseline(acts, baseline, n_modules, seed=seed)
    return found.unit_labels


def chosen_n_modules(
    acts: tlm.ActivationMatrix, method: str, candidates: range, seed: int, halves: int
) -> int:
    """The K at which discoveries on halves of the prompts agree best."""
    named: dict[str, Any] = {"method": method} if _CHOICE_HAS_METHOD else {}
    table = tlm.choose_n_modules(
        acts, candidates, n_seeds=2, n_halves=halves, seed=seed, progress=False, **named
    )
    agreement = table["ari", "mean"].xs("halves", level="kind")
    return int(agreement.idxmax())


CHOOSING = METHODS if _CHOICE_HAS_METHOD else METHODS[:1]
"""The methods whose own number of modules ``choose_n_modules`` finds."""
