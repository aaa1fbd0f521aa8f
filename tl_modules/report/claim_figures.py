"""Draw the figures that the page leads with: how selective modules are beside their controls."""

from importlib.util import find_spec
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from tl_modules.modules.module_set import ModuleSet
from tl_modules.plots.cores import core_curve
from tl_modules.plots.selectivity_points import plot_selectivity
from tl_modules.report.figures import ReportFigure, as_figure
from tl_modules.tables.effects_frame import SIGNIFICANT
from tl_modules.tables.verdicts import Tested, has_verdicts

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

_SELECTIVITY = (
    "A mark is the selectivity of {what}: the effect on its own category, minus the mean effect on "
    "the others. Grey points are its controls. The verdict depends on the mark's place among these "
    "points alone: p is the share of points at the mark or to its right, the mark included. A "
    f"selective {{noun}} has p at most {SIGNIFICANT:g} after correction; where controls are few, "
    "even a mark to the right of all may not. The horizontal line is the 95 % interval over "
    "prompts. The verdict does not use it: where it reaches 0, other prompts may not show the "
    "effect."
)
_CHOSEN = " Here each test chose how many controls it needed, and p allows for that choice."
_AGAIN = "Read this figure as the first. Here whole modules were ablated, not their cores."
_CURVE = (
    "From left to right, more of a module's units are ablated, those of the strongest estimated "
    "effects first. Where the curve is flat, more units add nothing. It is the mean over the "
    "modules, on the test prompts, which did not choose the cores."
)
_AROUND_ROWS = 140  # pixels above and below the rows: numbers, titles and the legend


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
    wanted: list[tuple[str, str, str, Tested, pd.DataFrame | None]] = [
        ("core-selectivity", "core", "a module's core", "cores", core_effects),
        ("selectivity", "module", "a module", "modules", effects),
    ]
    for name, noun, what, of, table in wanted:
        if (
            table is not None
            and has_verdicts(table)
            and np.isfinite(table["selectivity"].to_numpy(float)).any()
        ):
            drawn = plot_selectivity(table, modules=modules, of=of)
            n_rows = table.loc[table["selectivity"].notna(), "module"].nunique()
            _on_the_first_screen(drawn, n_rows)
            caption = _AGAIN if figures else _SELECTIVITY.format(what=what, noun=noun)
            if "n_controls" in table and len(table["n_controls"].dropna().unique()) > 1:
                caption += _CHOSEN
            title = f"How selective each {noun} is, compared with its controls"
            figures.append(as_figure(name, f"Selectivity of {noun}s", caption, drawn, title))
    if curve is not None and np.isfinite(curve["selectivity"].to_numpy(float)).any():
        figures.insert(
            min(len(figures), 1),
            as_figure(
                *("core-curve", "Size of cores", _CURVE, core_curve(curve)),
                "How selective cores are over the number of their units",
            ),
        )
    return figures


def _on_the_first_screen(figure: "Figure", n_rows: int) -> None:
    """Set the legend and the axis above the rows, where many modules do not push them away."""
    axis = {"side": "top", "title_standoff": 8}
    legend = {"orientation": "h", "yref": "container", "y": 1, "yanchor": "top", "x": 0}
    height = _AROUND_ROWS + max(34 * min(n_rows, 10), 24 * n_rows)
    figure.update_xaxes(**axis).update_layout(legend=legend, height=height)
