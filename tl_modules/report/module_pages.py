"""Prepare what the page says of each module: its row, and what the row opens into."""

from dataclasses import dataclass
from typing import Any

import pandas as pd

from tl_modules.modules.module_set import ModuleSet
from tl_modules.report.cards import Card
from tl_modules.report.continuations import Continuation
from tl_modules.report.effects_table import EffectsTable

_MAX_UNITS = 40  # of a core that are listed


@dataclass(frozen=True)
class OnCategory:
    """What ablating a module does on one category."""

    category: str
    own: bool
    core: dict[str, Any] | None
    """The cell of the core's effects; None if it was not tested."""

    whole: dict[str, Any] | None
    """The cell of the whole module's effects; None if it was not tested."""


@dataclass(frozen=True)
class CoreUnits:
    """The units of a core, strongest first, grouped by hook point."""

    n_units: int
    n_listed: int
    by_hook: list[tuple[str, str]]
    """Hook point and numbers of units; hook points with the strongest units come first."""


@dataclass(frozen=True)
class ModulePage:
    """What the page says of one module."""

    core: dict[str, Any] | None
    whole: dict[str, Any] | None
    """The module's rows of the cores' table and of the whole modules' first table; None where it
    was not tested."""

    effects: list[OnCategory]
    core_units: CoreUnits | None
    text: Continuation | None
    card: Card


def module_pages(
    modules: ModuleSet,
    cards: list[Card],
    cores: EffectsTable | None,
    whole: EffectsTable | None,
    units: pd.DataFrame | None,
    texts: dict[int, Continuation],
) -> list[ModulePage]:
    """Prepare one page per module.

    Args:
        modules: The modules.
        cards: What drives each of them.
        cores: The effects of ablating cores.
        whole: The effects of ablating whole modules.
        units: The cores' units, as ``CausalCores.units``.
        texts: What the model writes, by module.
    """
    pages = []
    for module, card in zip(modules, cards, strict=True):
        of_core = None if cores is None else cores.row(module.label)
        of_whole = None if whole is None else whole.row(module.label)
        pages.append(
            ModulePage(
                core=of_core,
                whole=of_whole,
                effects=_by_category((cores, of_core), (whole, of_whole)),
                core_units=None if units is None else _core_units(units, module.label),
                text=texts.get(module.label),
                card=card,
            )
        )
    return pages


_Row = tuple[EffectsTable | None, dict[str, Any] | None]


def _by_category(core: _Row, whole: _Row) -> list[OnCategory]:
    """Put the effects of a core and of its whole module on each category side by side."""
    cells = [
        {}
        if table is None or row is None
        else dict(zip(table.categories, row["cells"], strict=True))
        for table, row in (core, whole)
    ]
    of_core, of_whole = cells
    found = []
    for category in dict.fromkeys([*of_core, *of_whole]):
        pair = of_core.get(category), of_whole.get(category)
        own = any(cell is not None and cell["own"] for cell in pair)
        found.append(OnCategory(category, own, *pair))
    return found


def _core_units(units: pd.DataFrame, label: int) -> CoreUnits | None:
    """List the units of a core."""
    of_module = units.loc[units["module"] == label]
    if not len(of_module):
        return None
    listed = of_module.head(_MAX_UNITS)
    by_hook = [
        (str(hook), ", ".join(map(str, rows["unit"])))
        for hook, rows in listed.groupby("hook_name", sort=False)
    ]
    return CoreUnits(len(of_module), len(listed), by_hook)
