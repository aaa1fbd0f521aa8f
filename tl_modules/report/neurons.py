"""The neurons of modules, as the files of other viewers name them: a layer and a number."""

import re
from collections.abc import Iterable

import numpy as np
import pandas as pd

from tl_modules.errors import ModulesError
from tl_modules.modules.module import Module, as_list

_NEURONS = re.compile(r"blocks\.\d+\.mlp\.hook_post")


def neurons_of(modules: Module | Iterable[Module]) -> list[tuple[Module, pd.DataFrame]]:
    """Each module with its neurons: their ``layer``, ``hook_name`` and ``unit``.

    Args:
        modules: A set, some modules of one, or one.

    Raises:
        ModulesError: If there is none, they share a label or a unit, or belong to different models,
            or a unit is no neuron.
    """
    listed = as_list(modules)
    found = [(module, module.units.to_frame()) for module in listed]
    for module, frame in found:
        other = next((name for name in frame["hook_name"] if not _NEURONS.fullmatch(name)), None)
        if other is not None:
            raise ModulesError(
                "modules should consist of neurons (blocks.0.mlp.hook_post, ...), which the file "
                f"names by layer and number; module {module.label} has units at {other!r}. Pass "
                "modules of activations that collect(..., units='mlp') gathered."
            )
    flat = np.concatenate([module.units.flat() for module in listed])
    if len(np.unique(flat)) < len(flat):
        raise ModulesError(
            "modules should share no neuron, since the file puts each into one group; some do. "
            "Write modules and their cores to files of their own."
        )
    return found


def name_of(module: Module) -> str:
    """A module's number and title: ``"module 3: math"``."""
    return f"module {module.label}" + ("" if module.title is None else f": {module.title}")
