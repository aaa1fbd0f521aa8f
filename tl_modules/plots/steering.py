"""Draw what scaling each module does: own words, losses and fluency over the factor."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

import pandas as pd

from tl_modules.errors import ModulesError
from tl_modules.modules.module import Module
from tl_modules.plots.style import (
    COLOURS,
    GREY,
    FigureTemplate,
    band,
    graph_objects,
    interval,
    names_of,
    styled,
    wrapped,
)
from tl_modules.runtime.arguments import checked

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

_PANELS = {
    "score_rise": "score, rise",
    "selectivity": "own - other loss",
    "lost": "fluency lost",
}
"""The numbers that are drawn, and their axes' titles."""

_COLUMNS = (
    *("module", "factor", "steers"),
    *(
        f"{name}{end}"
        for name in _PANELS
        for end in ("", "_ci_low", "_ci_high", "_control_mean", "_control_std")
    ),
)
_BLUE = COLOURS[0]
_WIDTH = 240  # pixels per module


@checked
@styled
def plot_steering(
    table: pd.DataFrame,
    *,
    modules: Iterable[Module] | None = None,
    template: FigureTemplate = None,
) -> "Figure":
    """Draw what scaling each module does to text and to losses, over the factor.

    Each module has a column of three panels: the rise of the score (own words, or a user's scorer),
    the rise of the loss on its own category minus that on the others, and the fluency that is lost
    (both nats per token). Bars are 95 % intervals. The grey band is the controls' mean and two
    standard deviations to either side. A diamond marks a factor at which the module steers. The
    dotted line is what changes nothing.

    Args:
        table: What ``steering_effects`` returned.
        modules: The modules, which name the columns.
        template: The figure's style: a plotly template or its name, such as ``"simple_white"`` or
            ``"plotly_dark"``. By default dark text on white.

    Returns:
        A plotly figure.

    Raises:
        ModulesError: If plotly is not installed or lacks the template, or the table lacks columns
            or rows.

    Example::

        table = tlm.steering_effects(model, modules, held_out)
        tlm.plots.plot_steering(table, modules=modules)
    """
    graph_objects()
    from plotly.subplots import make_subplots

    missing = [name for name in _COLUMNS if name not in table.columns]
    if missing or not len(table):
        raise ModulesError(
            f"table should be what steering_effects returned; this one has {len(table)} rows and "
            f"lacks {missing}. Pass tlm.steering_effects(model, modules, prompts)."
        )
    labels = table["module"].drop_duplicates().tolist()
    names = names_of(labels, modules)
    figure = make_subplots(
        rows=len(_PANELS),
        cols=len(labels),
        shared_xaxes=True,
        shared_yaxes=True,
        column_titles=names,
        horizontal_spacing=0.03 if len(labels) < 10 else 0.2 / len(labels),
        vertical_spacing=0.05,
    )
    for column, label in enumerate(labels, 1):
        rows = table.loc[table["module"] == label].sort_values("factor")
        for row, name in enumerate(_PANELS, 1):
            _draw_panel(figure, rows, name, {"row": row, "col": column})
        figure.update_xaxes(title_text="factor", row=len(_PANELS), col=column)
    for row, title in enumerate(_PANELS.values(), 1):
        figure.update_yaxes(title_text=title, row=row, col=1)
        line = {"color": GREY, "dash": "dot", "width": 1}
        figure.add_hline(y=0, row=row, line=line)  # pyright: ignore[reportArgumentType]
    sentence = str(table.attrs.get("sentence", "What scaling each module does"))
    width = 120 + max(_WIDTH * len(labels), 480)
    title = {"text": wrapped(sentence, width=width // 8, n_lines=6), "font": {"size": 13}}
    return figure.update_layout(
        title=title, width=width, height=680, showlegend=False, margin={"t": 150}
    )


def _draw_panel(figure: "Figure", rows: pd.DataFrame, name: str, where: dict[str, int]) -> None:
    """One module's line of one number, in its controls' band."""
    controls = rows.dropna(subset=[f"{name}_control_mean"])
    if len(controls):
        mean, spread = controls[f"{name}_control_mean"], 2 * controls[f"{name}_control_std"]
        low, high = mean - spread.fillna(0), mean + spread.fillna(0)
        edges = (low.tolist(), high.tolist())
        figure.add_scatter(**band(controls["factor"].tolist(), *edges), **where)
    symbols = ["diamond" if steers else "circle" for steers in rows["steers"]]
    figure.add_scatter(
        x=rows["factor"].tolist(),
        y=rows[name].tolist(),
        error_y=interval(rows, name, f"{name}_ci_low", f"{name}_ci_high", width=4),
        mode="lines+markers",
        line={"color": _BLUE, "width": 2},
        marker={"color": _BLUE, "size": 8, "symbol": symbols},
        hovertemplate="factor %{x}: %{y:.3f}<extra></extra>",
        **where,
    )
