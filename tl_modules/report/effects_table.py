"""A table of effects as a page shows it: every cell beside its controls."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from tl_modules.modules.module_set import ModuleSet
from tl_modules.report.cards import module_label
from tl_modules.tables.effects_frame import SIGNIFICANT, effect_unit, is_own

_SELECTIVITY = tuple(
    f"selectivity{end}"
    for end in ("", "_ci_low", "_ci_high", "_control_mean", "_control_std", "_p_value")
)
COLUMNS = (
    *("module", "category", "own", "n", "effect", "ci_low", "ci_high", "control_mean"),
    *("control_std", "p_value", "p_bh", *_SELECTIVITY),
)
"""What the page reads of what ``module_effects`` returns."""


@dataclass(frozen=True)
class EffectsTable:
    """One run."""

    caption: str
    """What was measured on how many prompts, and what tells the run from the others."""

    digits: int
    """Decimals that show the strongest effect's first three digits."""

    has_controls: bool
    """Whether there is anything to hold the effects against."""

    categories: list[str]
    """Across."""

    rows: list[dict[str, Any]]
    """A module each: its label and name, a cell a category (None where it was not tested), and
    what is said of its selectivity."""

    @property
    def own(self) -> dict[int, dict[str, Any]]:
        """By module, the cell of its own category together with its selectivity."""
        return {
            row["label"]: {**cell, **row["selectivity"]}
            for row in self.rows
            for cell in row["cells"]
            if cell is not None and cell["own"]
        }


def effects_table(run: dict[str, str], table: pd.DataFrame, modules: ModuleSet) -> EffectsTable:
    """A run's table, ready to show, whatever the order of its rows.

    Args:
        run: What tells the run apart.
        table: Its rows, with ``COLUMNS``.
        modules: The modules.
    """
    table = table.assign(own=is_own(table))
    effects = table["effect"].to_numpy(dtype=float)
    strongest = float(np.max(np.abs(effects[np.isfinite(effects)]), initial=0.0))
    categories = list(dict.fromkeys(table["category"]))
    rows = []
    for label in sorted(set(table["module"])):
        own = table.loc[table["module"] == label]
        cells = {cell["category"]: cell for cell in own.to_dict(orient="records")}
        rows.append(
            {
                "label": int(label),
                "name": module_label(modules[int(label)]),
                "cells": [_cell(cells.get(category), strongest) for category in categories],
                "selectivity": own.iloc[0][list(_SELECTIVITY)].to_dict(),
            }
        )
    has_controls = bool(table["control_mean"].notna().to_numpy().any())
    n_prompts = int(np.sum(table.drop_duplicates("category")["n"].to_numpy()))
    said = [f"{effect_unit(run)}, {n_prompts} prompts"]
    said += [
        f"{name}: {value}"
        for name, value in run.items()
        if name not in ("modules", "metric") and (has_controls or name != "controls")
    ]
    return EffectsTable(
        caption="; ".join(said),
        digits=2 if strongest == 0 else min(max(2, 2 - math.floor(math.log10(strongest))), 8),
        has_controls=has_controls,
        categories=[str(category) for category in categories],
        rows=rows,
    )


def _cell(cell: dict[str, Any] | None, strongest: float) -> dict[str, Any] | None:
    """A row, with how deep its colour is and whether it has an asterisk."""
    if cell is None:
        return None
    share = cell["effect"] / strongest if strongest and np.isfinite(cell["effect"]) else 0.0
    return {
        **cell,
        "shade": max(share, 0.0) ** 0.5,
        "significant": cell["p_bh"] <= SIGNIFICANT,
    }
