"""A table of effects as a page shows it: every cell beside its controls."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from tl_modules.modules import ModuleSet
from tl_modules.report.effects import SIGNIFICANT, effect_unit


@dataclass(frozen=True)
class EffectsTable:
    """One run."""

    run: str
    """What tells it from the others: "controls: layer"; empty if nothing does."""

    unit: str
    """What effects are measured in."""

    n_prompts: int
    """Prompts tested."""

    has_controls: bool
    """Whether there is anything to hold the effects against."""

    categories: list[str]
    """Across."""

    rows: list[dict[str, Any]]
    """A module each: its label, name, cells and selectivity."""


def effects_table(run: dict[str, str], table: pd.DataFrame, modules: ModuleSet) -> EffectsTable:
    """A run's table, ready to show.

    Args:
        run: What tells the run apart.
        table: Its rows.
        modules: The modules.
    """
    strongest = max(float(np.nanmax(table["effect"].to_numpy(dtype=float))), 1e-12)
    first = table["module"].to_numpy() == table["module"].to_numpy()[0]
    rows = []
    for label in dict.fromkeys(table["module"]):
        cells = [
            cell
            | {
                "shade": max(cell["effect"] / strongest, 0.0) ** 0.5,
                "significant": cell["p_bh"] <= SIGNIFICANT,
            }
            for cell in table.loc[table["module"] == label].to_dict(orient="records")
        ]
        module = modules[int(label)]
        name = module.category if module.topic is None else module.topic.label
        rows.append({"label": int(label), "name": name, "cells": cells, "first": cells[0]})
    return EffectsTable(
        run=", ".join(
            f"{name}: {value}" for name, value in run.items() if name not in ("modules", "metric")
        ),
        unit=effect_unit(run),
        n_prompts=int(table["n"].to_numpy()[first].sum()),
        has_controls=bool(table["control_mean"].notna().to_numpy().any()),
        categories=[str(category) for category in dict.fromkeys(table["category"])],
        rows=rows,
    )
