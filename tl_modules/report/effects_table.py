"""Prepare a table of effects for the page: every effect beside its controls."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from tl_modules.modules.module_set import ModuleSet
from tl_modules.report.cards import module_label
from tl_modules.tables.effects_frame import SIGNIFICANT, effect_unit, is_own, positions_said
from tl_modules.tables.verdicts import has_verdicts, verdicts

_SELECTIVITY = tuple(
    f"selectivity{end}"
    for end in ("", "_ci_low", "_ci_high", "_control_mean", "_control_std", "_p_value")
)
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
    """One row per module: its label and name, the number of units that were ablated (None if the
    table does not say), one cell per category (None if the module was not tested on the category),
    its selectivity, and its verdict."""

    sentence: str | None
    """What the run says of the set; None for a table of an earlier version."""

    unit: str
    """The unit of the effects."""

    def row(self, label: int) -> dict[str, Any] | None:
        """The row of a module; None if it was not tested."""
        return next((row for row in self.rows if row["label"] == label), None)


def effects_table(run: dict[str, str], table: pd.DataFrame, modules: ModuleSet) -> EffectsTable:
    """Prepare a run's table for the page; its rows may be in any order.

    Args:
        run: The options that distinguish the run.
        table: The run's rows, with ``COLUMNS``.
        modules: The modules.
    """
    table = table.assign(own=is_own(table))
    judged = verdicts(table) if has_verdicts(table) else None
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
                "n_units": int(of_module["n_units"].iloc[0]) if "n_units" in table else None,
                "cells": [_cell(cells.get(category), strongest) for category in categories],
                # Selectivity is a property of the module: every row of it holds the same.
                "selectivity": of_module.iloc[0][list(_SELECTIVITY)].to_dict(),
                "verdict": said.get(label),
            }
        )
    has_controls = bool(table["control_mean"].notna().to_numpy().any())
    n_prompts = int(np.sum(table.drop_duplicates("category")["n"].to_numpy()))
    caption = [f"{effect_unit(run)}, {n_prompts} prompts"]
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
    )


def _controls_said(table: pd.DataFrame) -> str:
    """How many controls each module has, or that they are of an earlier kind.

    Tables without the column ``n_controls`` are older than controls that are drawn from all units
    of a layer, so that their p-values may be too small.
    """
    column = table.get("n_controls", [])
    numbers = np.asarray(pd.to_numeric(pd.Series(column), errors="coerce"), dtype=float)
    numbers = numbers[np.isfinite(numbers)]
    if not len(numbers):
        return (
            "the table is of an earlier version, whose controls held no unit of their module: its "
            "p-values are too small. Run tlm.module_effects again"
        )
    fewest, most = int(numbers.min()), int(numbers.max())
    number = f"{fewest}" if fewest == most else f"{fewest} to {most}"
    return f"{number} controls per module"


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
