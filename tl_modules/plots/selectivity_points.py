"""Draw each module's selectivity beside its controls, with its verdict."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, get_args

import numpy as np
import pandas as pd
from jaxtyping import Float

from tl_modules.modules.module import Module
from tl_modules.plots.style import (
    COLOURS,
    GREY,
    MARGINS,
    FigureTemplate,
    graph_objects,
    interval,
    names_of,
    styled,
    wrapped,
)
from tl_modules.runtime.arguments import checked
from tl_modules.tables.control_selectivities import COLUMN, control_selectivities
from tl_modules.tables.effects_frame import SIGNIFICANT, effect_unit, split_runs
from tl_modules.tables.verdicts import Tested, Verdict, verdicts

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

_PIXELS_PER_MODULE = 40  # of up to 20 modules
_HEIGHT = 800  # pixels of the rows of 20 modules
_FEWEST_PIXELS = 24  # of one of many modules
_TITLE = 75  # pixels of the axis' numbers and title
_LEGEND = 60  # pixels
_MOST_POINTS = 3000  # more points would make the figure slow
_FEWEST_POINTS = 30  # of a module's controls
_LOOKS = dict(
    zip(
        get_args(Verdict),
        zip(COLOURS, ("diamond", "square", "circle-open", "triangle-up-open", "x"), strict=False),
        strict=True,
    )
)
"""Each verdict's colour and mark."""


@checked
@styled
def plot_selectivity(
    effects: pd.DataFrame,
    *,
    modules: Iterable[Module] | None = None,
    level: float = SIGNIFICANT,
    of: Tested = "modules",
    template: FigureTemplate = None,
) -> "Figure":
    """Draw how selective each module is, beside its controls, and what that amounts to.

    A mark is the module's selectivity, with its 95 % interval over prompts. Colour and shape are
    the module's verdict (see ``tlm.verdicts``). The grey points below it are its controls, and the
    grey tick the largest of them; if there are very many, some are drawn, evenly over their ranks.
    A table of an earlier version has no single controls: a grey bar then shows their mean and two
    standard deviations to either side. The title says the verdict on all modules. Below the axis
    stands the smallest p-value that the number of controls can give, where some module has it.

    Args:
        effects: What ``module_effects`` returned.
        modules: The modules, which name the rows.
        level: The largest corrected p-value of a selective module.
        of: What was ablated, for title and axis: ``"cores"`` for the effects of
            ``causal_cores(...).cores``.
        template: The figure's style: a plotly template or its name, such as ``"simple_white"`` or
            ``"plotly_dark"``. By default dark text on white.

    Returns:
        A plotly figure. Modules that were not tested have no row.

    Raises:
        ModulesError: If plotly is not installed or lacks the template, or as in ``tlm.verdicts``.

    Example::

        effects = tlm.module_effects(model, modules, prompts)
        tlm.plots.plot_selectivity(effects, modules=modules)
    """
    table = verdicts(effects, level=level, of=of)
    sentence = str(table.attrs["sentence"])
    table = table.dropna(subset=["selectivity"]).reset_index(drop=True)
    table["row"] = np.arange(len(table))
    table["name"] = names_of(table["module"].tolist(), modules)
    figure = graph_objects().Figure()
    figure.add_vline(x=0, line={"color": GREY, "width": 1, "dash": "dot"})
    _add_controls(figure, effects, table)
    # In the order of the type, so that figures of several runs have the same legend.
    for verdict, (colour, symbol) in _LOOKS.items():
        rows = table.loc[table["verdict"] == verdict]
        if not len(rows):
            continue
        figure.add_scatter(
            x=rows["selectivity"].tolist(),
            y=rows["row"].tolist(),
            error_x=interval(rows, "selectivity", "ci_low", "ci_high", width=4, color=colour),
            mode="markers",
            marker={"color": colour, "symbol": symbol, "size": 12, "line": {"width": 2}},
            name=verdict,
            hovertext=[
                f"{name}<br>{wrapped(line)}"
                for name, line in zip(rows["name"], rows["line"], strict=True)
            ],
            hoverinfo="text",
        )
    unit = effect_unit(split_runs(effects)[0][0])
    title = [f"selectivity: own category minus mean of the others ({unit})", *_floor(table, of)]
    figure.update_xaxes(title_text="<br>".join(title))
    n_rows = max(len(table), 1)
    height = _rows_height(n_rows)
    figure.update_yaxes(
        title_text="core of module" if of == "cores" else "module",
        tickvals=table["row"].tolist(),
        ticktext=table["name"].tolist(),
        range=[n_rows - 0.4, -0.6],
        showgrid=False,
        zeroline=False,
    )
    return figure.update_layout(
        title_text=wrapped(sentence, width=95),
        # Below the axis' title, where a second line of it does not meet the figure's title.
        legend={"orientation": "h", "y": -_TITLE / height, "yanchor": "top", "x": 0},
        width=900,
        height=MARGINS + _LEGEND + height,
    )


def _rows_height(n_rows: int) -> int:
    """Return the height of the rows in pixels; many modules are closer together."""
    roomy = _PIXELS_PER_MODULE * max(n_rows, 3)
    return max(min(roomy, _HEIGHT), _FEWEST_PIXELS * n_rows)


def _add_controls(figure: "Figure", effects: pd.DataFrame, table: pd.DataFrame) -> None:
    """Draw the controls as points, or their mean and spread where there are no single ones."""
    singles = _single_controls(effects, table)
    if singles:
        x = np.concatenate(list(singles.values()))
        y = np.concatenate([row + _spread(len(points)) for row, points in singles.items()])
        figure.add_scatter(
            x=x.tolist(),
            y=y.tolist(),
            mode="markers",
            marker={"color": GREY, "size": 4},
            name="its controls",
            hovertemplate="a control: %{x:.3g}<extra></extra>",
        )
    bars = table.loc[~table["row"].isin(list(singles))].dropna(subset=["control_mean"])
    if len(bars):
        figure.add_scatter(
            x=bars["control_mean"].tolist(),
            y=(bars["row"] + _BELOW).tolist(),
            error_x={
                "type": "data",
                "array": (2 * bars["control_std"]).fillna(0).tolist(),
                "thickness": 3,
                "width": 0,
                "color": GREY,
            },
            mode="markers",
            marker={"color": GREY, "size": 8},
            name="its controls (mean ± 2 standard deviations)",
            hovertemplate="controls on average: %{x:.3g}<extra></extra>",
        )
    largest = table.dropna(subset=["control_max"])
    if len(largest):
        figure.add_scatter(
            x=largest["control_max"].tolist(),
            y=(largest["row"] + _BELOW).tolist(),
            mode="markers",
            marker={"symbol": "line-ns", "size": 12, "line": {"color": GREY, "width": 2}},
            name="the largest control",
            hovertemplate="largest control: %{x:.3g}<extra></extra>",
        )


def _single_controls(
    effects: pd.DataFrame, table: pd.DataFrame
) -> dict[int, Float[np.ndarray, " controls"]]:
    """Return the controls of each row of the table that has some, in ascending order."""
    if COLUMN not in effects:
        return {}
    most = max(_MOST_POINTS // max(len(table), 1), _FEWEST_POINTS)
    singles = control_selectivities(effects)
    found = {}
    for row, module in zip(table["row"].tolist(), table["module"], strict=True):
        values = singles.loc[singles["module"] == module, "selectivity"].to_numpy(dtype=float)
        if len(values):
            kept = np.linspace(0, len(values) - 1, min(len(values), most)).round().astype(int)
            found[row] = np.sort(values)[kept]
    return found


_BELOW = 0.27
"""How far below a module's mark its controls are, in rows."""


def _spread(n_points: int) -> Float[np.ndarray, " points"]:
    """Return how far below a module's mark each control is, so that points do not hide others.

    The golden ratio's multiples place neighbours far apart, however many there are.
    """
    golden = (np.sqrt(5) - 1) / 2
    return _BELOW + 0.26 * ((np.arange(n_points) * golden) % 1 - 0.5)


def _floor(table: pd.DataFrame, of: Tested) -> list[str]:
    """Say how small a p-value can be, if some module has the smallest one."""
    rows = table.loc[table["at_floor"]]
    if not len(rows):
        return []
    one = of.removesuffix("s")
    some = f"1 {one} has" if len(rows) == 1 else f"{len(rows)} {of} have"
    numbers = sorted({int(number) for number in rows["n_controls"]})
    controls = f"{numbers[0]}" if len(numbers) == 1 else f"{numbers[0]} to {numbers[-1]}"
    least = rows["p_floor"].min()
    return [
        f"{some} the smallest p that {controls} controls can give: {least:.2g} before correction"
    ]
