"""What the package offers today: methods, baselines, readings and kinds of control."""

import inspect
import typing
from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Int

import tl_modules as tlm
from tl_modules.discovery.products import InMemory
from tl_modules.discovery.silhouettes import topic_silhouette


def choices(function: Callable[..., Any], parameter: str) -> tuple[str, ...]:
    """The values of a parameter that is a ``Literal`` (or None); none of any other parameter."""
    hint = typing.get_type_hints(inspect.unwrap(function)).get(parameter)
    literal = next((part for part in typing.get_args(hint) if typing.get_args(part)), hint)
    return typing.get_args(literal)


METHODS = choices(tlm.discover, "method")
BASELINES = choices(tlm.discover_baseline, "method")
READINGS = choices(tlm.collect, "weight")
CONTROLS = choices(tlm.module_effects, "controls")


def unit_labels(
    acts: tlm.ActivationMatrix, method: str, n_modules: int, seed: int
) -> Int[np.ndarray, " units"]:
    """The units' labels by one of ``METHODS`` or ``BASELINES``."""
    if method in METHODS:
        named: Any = method
        found = tlm.discover(acts, n_modules, method=named, seed=seed, progress=False)
    else:
        baseline: Any = method
        found = tlm.discover_baseline(acts, baseline, n_modules, seed=seed)
    return found.unit_labels


def chosen_n_modules(acts: tlm.ActivationMatrix, candidates: range, seed: int) -> int:
    """The K of the highest silhouette, which ``best_n_modules`` chooses for every method."""
    products = InMemory(np.asarray(acts.zscore().values))
    scores = {k: topic_silhouette(products, k, seed) for k in candidates}
    return max(scores, key=lambda k: scores[k])
