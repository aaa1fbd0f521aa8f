"""Draw how faithful the first units of each ranking are, at every size."""

from typing import TYPE_CHECKING

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

_COLUMNS = ("ranking", "n_units", "share", "faithfulness", "lowest", "highest")


@checked
@styled
def faithfulness_curve(table: pd.DataFrame, *, template: FigureTemplate = None) -> "Figure":
    """Draw faithfulness over the share of units that are kept, one line per ranking.

    The line of random orders is grey, in a band from the lowest of them to the highest. Dotted
    lines mark 0, as without any unit, and 1, as with all.

    Args:
        table: ``FaithfulnessCurves.table``.
        template: The figure's style: a plotly template or its name, such as ``"simple_white"`` or
            ``"plotly_dark"``. By default dark text on white.

    Returns:
        A plotly figure.

    Raises:
        ModulesError: If plotly is not installed or lacks the template, or the table lacks columns.

    Example::

        curves = tlm.faithfulness_curves(model, clean, corrupted, metric, rankings)
        tlm.plots.faithfulness_curve(curves.table)
    """
    plotly = graph_objects()
    missing = [name for name in _COLUMNS if name not in table.columns]
    if missing:
        raise ModulesError(
            f"table should be the table of faithfulness_curves; it lacks {missing}. Pass "
            "curves.table."
        )
    figure = plotly.Figure()
    colours = iter(COLOURS[:-1] * len(table))  # the last one is random's grey
    for ranking, rows in table.groupby("ranking", sort=False):
        shares, is_random = rows["share"].tolist(), ranking == "random"
        if is_random:
            figure.add_scatter(**band(shares, rows["lowest"], rows["highest"]))
        figure.add_scatter(
            x=shares,
            y=rows["faithfulness"].tolist(),
            name=plotly_text(str(ranking)),
            mode="lines+markers",
            line={"color": GREY if is_random else next(colours), "width": 2},
            customdata=rows["n_units"].tolist(),
            hovertemplate="%{customdata:,} units: %{y:.2f}<extra></extra>",
        )
    for level in (0, 1):
        figure.add_hline(y=level, line={"color": GREY, "dash": "dot", "width": 1})
    figure.update_xaxes(title_text="share of the units kept", type="log", tickformat="~%")
    figure.update_yaxes(title_text="faithfulness")
    title = "How much of the task the first units of each ranking do alone"
    return figure.update_layout(title_text=title, width=800, height=480)
