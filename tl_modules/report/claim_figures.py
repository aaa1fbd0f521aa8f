"""Draw the figures that the page leads with: how selective modules are beside their controls."""

from importlib.util import find_spec

import numpy as np
import pandas as pd

from tl_modules.modules.module_set import ModuleSet
from tl_modules.plots.cores import core_curve
from tl_modules.plots.selectivity_points import plot_selectivity
from tl_modules.report.figures import ReportFigure, as_figure
from tl_modules.tables.verdicts import has_verdicts

_SELECTIVITY = (
    "Selectivity is what ablating the units does to the module's own category, less the mean of "
    "what it does to the others. Lines are 95 % intervals over prompts; grey points are the "
    "controls, random sets of as many units of the same layers. A mark to the right of all of "
    "them does more than chance."
)
_CURVE = (
    "The units are added by their estimated effects, strongest first. Where the curve is flat, "
    "more units add nothing. It is the mean over the modules, on prompts that chose no core."
)


def claim_figures(
    modules: ModuleSet,
    core_effects: pd.DataFrame | None,
    effects: pd.DataFrame | None,
    curve: pd.DataFrame | None,
) -> list[ReportFigure]:
    """Draw what the verdicts rest on; nothing without plotly.

    Args:
        modules: The modules, which name the rows.
        core_effects: The effects of ablating cores.
        effects: The effects of ablating whole modules, of one run.
        curve: ``CausalCores.table``.

    Returns:
        The figures of the cores, then of the whole modules.
    """
    if find_spec("plotly") is None:
        return []
    figures = []
    for name, what, table in (
        ("core-selectivity", "core", core_effects),
        ("selectivity", "module", effects),
    ):
        if (
            table is not None
            and has_verdicts(table)
            and np.isfinite(table["selectivity"].to_numpy(float)).any()
        ):
            drawn = plot_selectivity(table, modules=modules)
            title = f"How selective each {what} is, beside its controls"
            figures.append(as_figure(name, f"Selectivity of {what}s", _SELECTIVITY, drawn, title))
    if curve is not None and np.isfinite(curve["selectivity"].to_numpy(float)).any():
        figures.insert(
            min(len(figures), 1),
            as_figure(
                *("core-curve", "Size of cores", _CURVE, core_curve(curve)),
                "How selective cores are over the number of their units",
            ),
        )
    return figures
