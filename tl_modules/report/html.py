"""One self-contained HTML page: what each module does to each category, and what it is."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined

from tl_modules import files
from tl_modules.errors import ModulesError
from tl_modules.modules import Module, ModuleSet

N_TOP_PROMPTS = 5


def write_page(path: str | Path, modules: ModuleSet, effects: pd.DataFrame) -> None:
    """Write the page: the module x category table as a heatmap, and a card for each module.

    The page needs no network and no script. Prompts are shown as text, whatever they hold.

    Args:
        path: The HTML file.
        modules: The modules.
        effects: What ``module_effects`` returned for them.

    Raises:
        ModulesError: If a module has no effects, or the file cannot be written.
    """
    missing = set(range(len(modules))) - set(effects["module"])
    if missing:
        raise ModulesError(
            f"effects should have rows of every module; {sorted(missing)} are missing. Pass what "
            "module_effects(model, modules, ...) returned for the whole set."
        )
    # Autoescape: prompts are untrusted text.
    environment = Environment(
        loader=PackageLoader("tl_modules.report"), autoescape=True, undefined=StrictUndefined
    )
    page = environment.get_template("page.html.j2").render(
        modules=modules,
        categories=list(dict.fromkeys(effects["category"])),
        rows=[_row(module, effects) for module in modules],
        n_prompts=_n_prompts(effects),
    )
    files.write_bytes(path, page.encode("utf-8", errors="replace"))


def _n_prompts(effects: pd.DataFrame) -> int:
    """How many prompts the table was made on: every module saw the same."""
    first = effects["module"].to_numpy() == effects["module"].to_numpy()[0]
    return int(effects["n"].to_numpy()[first].sum())


@dataclass(frozen=True)
class _Bar:
    """One layer's bar in a module's histogram; x and heights in the drawing's own units."""

    layer: int
    x: float
    height: float
    count: int


def _row(module: Module, effects: pd.DataFrame) -> dict[str, Any]:
    """What the template shows of one module."""
    own = effects.loc[effects["module"] == module.label]
    strongest = max(float(effects["effect"].to_numpy().max()), 1e-12)
    cells = [
        {**cell, "shade": max(cell["effect"] / strongest, 0.0) ** 0.5}
        for cell in own.to_dict(orient="records")
    ]
    return {
        "module": module,
        "cells": cells,
        "first": cells[0],
        "bars": _histogram(module),
        "expected": module.n_units / sum(module.units.widths),
        "top": module.samples.head(N_TOP_PROMPTS).to_dict(orient="records"),
    }


def _histogram(module: Module, width: float = 360.0, height: float = 60.0) -> list[_Bar]:
    """Bars over the layers; full height is the module's largest layer."""
    of_hook = np.asarray(module.units.layers)
    layers = np.unique(of_hook)
    counts = np.bincount(np.searchsorted(layers, of_hook[module.units.hook]), minlength=len(layers))
    step = width / len(counts)
    tallest = max(int(counts.max()), 1)
    return [
        _Bar(layer, step * position, height * float(count) / tallest, int(count))
        for position, (layer, count) in enumerate(
            zip(layers.tolist(), counts.tolist(), strict=True)
        )
    ]
