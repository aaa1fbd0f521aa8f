"""Draw how selective cores of every size are, beside rivals and controls."""

from typing import TYPE_CHECKING, Literal

import numpy as np
import pandas as pd

from tl_modules.errors import ModulesError
from tl_modules.plots.style import (
    COLOURS,
    GREY,
    FigureTemplate,
    band,
    graph_objects,
    plotly_text,
    styled,
)
from tl_modules.runtime.arguments import checked

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

_COLUMNS = ("module", "category", "ranking", "n_units", "chosen")


@checked
@styled
def core_curve(
    table: pd.DataFrame,
    *,
    module: int | None = None,
    value: Literal["selectivity", "effect", "others", "specificity"] = "selectivity",
    template: FigureTemplate = None,
) -> "Figure":
    """Draw a number of the cores over their size, beside what other rankings take.

    The cores' curve is bold, with 95 % intervals over prompts if one module is drawn, and with a
    large point at the chosen core. Dashed lines are the means of the controls, in a band from the
    smallest selectivity among a module's controls of a size to the largest, or from the mean of
    the modules' smallest to the mean of their largest.

    Args:
        table: ``CausalCores.table``.
        module: The module to draw; by default the mean over the modules, each at its own size
            where the whole module is smaller than a size.
        value: The column to draw.
        template: The figure's style: a plotly template or its name, such as ``"simple_white"`` or
            ``"plotly_dark"``. By default dark text on white.

    Returns:
        A plotly figure.

    Raises:
        ModulesError: If plotly is not installed or lacks the template, the table lacks columns, or
            has no such module.

    Example::

        found = tlm.causal_cores(model, modules, choosing, testing)
        tlm.plots.core_curve(found.table)
    """
    plotly = graph_objects()
    missing = [name for name in (*_COLUMNS, value) if name not in table.columns]
    if missing:
        raise ModulesError(
            f"table should be the table of causal_cores; it lacks {missing}. Pass found.table."
        )
    labels = table["module"].drop_duplicates().tolist()
    if module is not None and module not in labels:
        raise ModulesError(f"table has no module {module}; it has {labels}.")
    shown = table if module is None else _of_module(table, module)
    before = "" if value == "effect" else f"{value}_"
    figure = plotly.Figure()
    rankings = shown["ranking"].drop_duplicates().tolist()
    for number, ranking in enumerate(rankings):
        rows = shown.loc[shown["ranking"] == ranking]
        colour = COLOURS[number % len(COLOURS)]
        bold = ranking == "core"
        curve = _curve(rows, value)
        options = {"line": {"color": colour, "width": 3 if bold else 1.5}, "mode": "lines+markers"}
        if bold and module is not None:
            options["error_y"] = {
                "type": "data",
                "array": (rows[f"{before}ci_high"] - rows[value]).tolist(),
                "arrayminus": (rows[value] - rows[f"{before}ci_low"]).tolist(),
            }
        name = plotly_text(str(ranking))
        figure.add_scatter(x=curve.index.tolist(), y=curve.tolist(), name=name, **options)
    _add_controls(figure, shown, value)
    chosen = shown.loc[shown["chosen"]]
    if module is not None and len(chosen):
        marker = {"size": 14, "color": COLOURS[0], "symbol": "circle-open", "line": {"width": 3}}
        options = {"x": chosen["n_units"].tolist(), "y": chosen[value].tolist(), "marker": marker}
        figure.add_scatter(**options, mode="markers", name="the core")
    figure.update_xaxes(title_text="units ablated", type="log", dtick=1)
    unit = "own / others" if value == "specificity" else "nats per token"
    figure.update_yaxes(title_text=f"{value} ({unit})", rangemode="tozero")
    of = f"{len(labels)} modules (mean)" if module is None else f"module {module}"
    title = f"What the first units of each ranking do: {of}"
    return figure.update_layout(title_text=title, width=800, height=480)


def _of_module(table: pd.DataFrame, module: int) -> pd.DataFrame:
    """A module's rows; the untrained twin's module of the same number is another one."""
    return table.loc[(table["module"] == module) & (table["ranking"] != "untrained twin")]


def _curve(rows: pd.DataFrame, value: str) -> pd.Series:
    """The mean over the modules at each size; a smaller module counts as a whole.

    The specificity is the ratio of the mean effects: a ratio of one module may be infinite.
    """
    if value == "specificity":
        return _curve(rows, "effect") / _curve(rows, "others")
    curves = {
        label: own.set_index("n_units")[value].sort_index()
        for label, own in rows.groupby("module", sort=False)
    }
    wholes = {label: int(curve.index[-1]) for label, curve in curves.items()}
    largest = max(wholes.values())
    sizes = sorted({int(size) for curve in curves.values() for size in curve.index})
    shown = [size for size in sizes if size not in wholes.values() or size == largest]
    columns = {
        label: [curve.get(min(size, wholes[label]), np.nan) for size in shown]
        for label, curve in curves.items()
    }
    return pd.DataFrame(columns, index=shown).mean(axis=1)


def _add_controls(figure: "Figure", shown: pd.DataFrame, value: str) -> None:
    """The controls' means and ranges, where the table has them: they are of selectivity."""
    cores = shown.loc[shown["ranking"] == "core"]
    for kind, dash in (("layer", "dash"), ("magnitude", "dot")):
        name = f"{kind}_selectivity"
        if value == "selectivity" and name in cores.columns and np.isfinite(cores[name]).any():
            curve = _curve(cores, name)
            if {f"{name}_min", f"{name}_max"} <= set(cores.columns):  # older tables lack one
                lowest, highest = (_curve(cores, f"{name}_{end}") for end in ("min", "max"))
                figure.add_scatter(**band(curve.index.tolist(), lowest, highest))
            line = {"color": GREY, "dash": dash, "width": 1.5}
            options = {"x": curve.index.tolist(), "y": curve.tolist(), "line": line}
            figure.add_scatter(**options, mode="lines", name=f"{kind} controls")
