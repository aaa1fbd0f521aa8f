"""Prepare a table of effects for the page: every effect beside its controls."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float, Int, Shaped

from tl_modules.modules.module import Module
from tl_modules.modules.module_set import ModuleSet
from tl_modules.report.cards import module_label
from tl_modules.tables.effects_frame import SIGNIFICANT, effect_unit, is_own, positions_said
from tl_modules.tables.verdicts import Tested, has_verdicts, verdicts

_SELECTIVITY = tuple(
    f"selectivity{end}"
    for end in ("", "_ci_low", "_ci_high", "_control_mean", "_control_std", "_p_value")
)
_MOST_TIED = 3  # categories of a tie that are named

COLUMNS = (
    *("module", "category", "own", "n", "effect", "ci_low", "ci_high", "control_mean"),
    *("control_std", "p_value", "p_bh", *_SELECTIVITY),
)
"""The columns of ``module_effects`` that the page shows."""


@dataclass(frozen=True)
class EffectsTable:
    """The effects of one run."""

    caption: str
    """The metric, the number of prompts, and the options that distinguish the run."""

    digits: int
    """The number of decimals that shows three digits of the strongest effect."""

    has_controls: bool
    """Whether the run has controls to compare the effects with."""

    categories: list[str]
    """The table's columns."""

    rows: list[dict[str, Any]]
    """One row per module: its label and name, its own category in words (empty if it was not
    tested), the number of units that were ablated (None if the table does not say), one cell per
    category (None if the module was not tested on the category), its selectivity, and its
    verdict."""

    sentence: str | None
    """What the run says of the set; None for a table of an earlier version."""

    unit: str
    """The unit of the effects."""

    prompts: str
    """How many prompts the test has, in all and per category."""

    controls: str
    """How many controls each module has, in words; empty if the table does not say."""

    def row(self, label: int) -> dict[str, Any] | None:
        """The row of a module; None if it was not tested."""
        return next((row for row in self.rows if row["label"] == label), None)


def effects_table(
    run: dict[str, str], table: pd.DataFrame, modules: ModuleSet, of: Tested = "modules"
) -> EffectsTable:
    """Prepare a run's table for the page; its rows may be in any order.

    Args:
        run: The options that distinguish the run.
        table: The run's rows, with ``COLUMNS``.
        modules: The modules.
        of: Whether whole modules were ablated, or their cores.
    """
    table = table.assign(own=is_own(table))
    judged = verdicts(table, of=of) if has_verdicts(table) else None
    said = {} if judged is None else judged.set_index("module").to_dict(orient="index")
    effects = table["effect"].to_numpy(dtype=float)
    strongest = float(np.max(np.abs(effects[np.isfinite(effects)]), initial=0.0))
    categories = list(dict.fromkeys(table["category"]))
    rows = []
    for label in sorted(set(table["module"])):
        of_module = table.loc[table["module"] == label]
        cells = {cell["category"]: cell for cell in of_module.to_dict(orient="records")}
        rows.append(
            {
                "label": int(label),
                "name": module_label(modules[int(label)]),
                "own": _own_said(of_module, modules[int(label)]),
                "n_units": int(of_module["n_units"].iloc[0]) if "n_units" in table else None,
                "cells": [_cell(cells.get(category), strongest) for category in categories],
                # Selectivity is a property of the module: every row of it holds the same.
                "selectivity": of_module.iloc[0][list(_SELECTIVITY)].to_dict(),
                "verdict": said.get(label),
            }
        )
    has_controls = bool(table["control_mean"].notna().to_numpy().any())
    per_category = table.drop_duplicates("category")["n"].to_numpy(dtype=int)
    caption = [f"{effect_unit(run)}, {per_category.sum()} prompts"]
    caption += [
        f"{name}: {value}"
        for name, value in run.items()
        if name not in ("modules", "metric", "positions") and (has_controls or name != "controls")
    ]
    caption.append(f"units changed {positions_said(table)}")
    if has_controls:
        caption.append(_controls_said(table))
    return EffectsTable(
        caption="; ".join(caption),
        digits=2 if strongest == 0 else min(max(2, 2 - math.floor(math.log10(strongest))), 8),
        has_controls=has_controls,
        categories=[str(category) for category in categories],
        rows=rows,
        sentence=None if judged is None else judged.attrs["sentence"],
        unit=effect_unit(run),
        prompts=_prompts_said(per_category),
        controls=_range_said(_numbers_of_controls(table)) if has_controls else "no",
    )


def _prompts_said(per_category: Int[np.ndarray, " categories"]) -> str:
    """How many prompts a test has."""
    total = int(per_category.sum())
    said = "1 prompt" if total == 1 else f"{total:,} prompts"
    if len(per_category) == 1:
        return said
    return f"{said} ({_range_said(per_category)} of each of {len(per_category)} categories)"


def _own_said(of_module: pd.DataFrame, module: Module) -> str:
    """The category that a module's selectivity is of, and those that tie with it."""
    own = of_module.loc[of_module["own"], "category"]
    if not len(own):
        return ""
    category = str(own.iloc[0])
    tied = [name for name in module.tied_categories if name != category]
    if category not in module.tied_categories:
        return category
    more = f" and {len(tied) - _MOST_TIED} more" if len(tied) > _MOST_TIED else ""
    return f"{category} (ties with {', '.join(tied[:_MOST_TIED])}{more}; the first by name counts)"


def _range_said(numbers: Shaped[np.ndarray, " numbers"]) -> str:
    """The smallest and the largest of some whole numbers; empty without numbers."""
    if not len(numbers):
        return ""
    fewest, most = int(numbers.min()), int(numbers.max())
    return f"{fewest}" if fewest == most else f"{fewest} to {most}"


def _numbers_of_controls(table: pd.DataFrame) -> Float[np.ndarray, " known"]:
    """The numbers of controls in a table; none in one of an earlier version."""
    column = table.get("n_controls", [])
    numbers = np.asarray(pd.to_numeric(pd.Series(column), errors="coerce"), dtype=float)
    return numbers[np.isfinite(numbers)]


def _controls_said(table: pd.DataFrame) -> str:
    """How many controls each module has, or that they are of an earlier kind.

    Tables without the column ``n_controls`` are older than controls that are drawn from all units
    of a layer, so that their p-values may be too small.
    """
    numbers = _numbers_of_controls(table)
    if not len(numbers):
        return (
            "the table is of an earlier version, whose controls held no unit of their module: its "
            "p-values are too small. Run tlm.module_effects again"
        )
    said = _range_said(numbers)
    return f"{said} control{'' if said == '1' else 's'} per module"


def _cell(cell: dict[str, Any] | None, strongest: float) -> dict[str, Any] | None:
    """Add the colour's depth and the asterisk to a cell."""
    if cell is None:
        return None
    # The root keeps weaker effects visible beside one strong effect.
    share = cell["effect"] / strongest if strongest and np.isfinite(cell["effect"]) else 0.0
    return {
        **cell,
        "shade": max(share, 0.0) ** 0.5,
        "significant": cell["p_bh"] <= SIGNIFICANT,
    }
