"""Shared parts of the heat maps: their cells, the cells' texts and frames, and their axes."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, Shaped

from tl_modules.plots.style import MARGINS, graph_objects, height_for, text_on, ticks

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

MOST_TEXTS = 40
"""The largest number of rows that have room for text."""


def stacked(
    grids: dict[str, np.ndarray], rows: list[str], columns: list[str]
) -> Shaped[np.ndarray, "rows columns data"]:
    """Collect the data of each cell's hover text: its numbers, then its row's and column's name."""
    titles = np.meshgrid(np.array(rows, dtype=object), np.array(columns, dtype=object))
    numbers = [grid.astype(object) for grid in grids.values()]
    return np.stack([*numbers, *(names.T for names in titles)], axis=-1)


def frame(row: int, column: int, panel: int = 1) -> dict[str, Any]:
    """Return a rectangle around a cell.

    Args:
        row: The cell's row.
        column: The cell's column.
        panel: The number of the heat map, from 1.
    """
    corners = {"x0": column - 0.5, "x1": column + 0.5, "y0": row - 0.5, "y1": row + 0.5}
    axis = "" if panel == 1 else str(panel)
    axes = {"xref": f"x{axis}", "yref": f"y{axis}"}
    return {"type": "rect", **corners, **axes, "line": {"color": "#000000"}}


def texts(
    values: Float[np.ndarray, "rows columns"],
    said: Shaped[np.ndarray, "rows columns"],
    scale: Sequence[Sequence[Any]],
    limits: tuple[float, float],
) -> Any:
    """Return a trace with a text in each cell, black or white by the cell's colour.

    A heat map's own texts have colours of too little contrast in the middle of a scale.

    Args:
        values: The cells' numbers.
        said: The cells' texts; cells with an empty text have none.
        scale: The heat map's colours.
        limits: The numbers at the scale's ends.
    """
    graph_objects()
    from plotly.colors import sample_colorscale

    rows, columns = np.nonzero((said != "") & np.isfinite(values))
    low, high = limits
    places = np.clip((values[rows, columns] - low) / (high - low), 0, 1)
    colours = sample_colorscale([list(stop) for stop in scale], places.tolist())
    return graph_objects().Scatter(
        x=columns,
        y=rows,
        text=said[rows, columns],
        mode="text",
        textfont={"color": text_on([str(colour) for colour in colours]), "size": 11},
        hoverinfo="skip",
        showlegend=False,
    )


def column_ticks(names: list[str], pixels: int) -> dict[str, Any]:
    """Label the columns, or rows, that have room for a name."""
    return ticks(names, range(len(names)), len(names), pixels)


def with_module_axis(figure: "Figure", names: list[str], width: int, below: int = 0) -> "Figure":
    """Label the figure's rows with the modules' names, the first on top.

    Args:
        figure: The figure.
        names: The rows' names.
        width: The figure's width in pixels.
        below: Pixels to add below the axis of columns.
    """
    height = height_for(len(names))
    # The range is fixed, because texts and frames would widen the one that plotly finds.
    figure.update_yaxes(
        range=[len(names) - 0.5, -0.5], showgrid=False, zeroline=False
    ).update_xaxes(showgrid=False, zeroline=False)
    # The first panel's axis alone: others share it.
    axis = {"title_text": "module", "ticklabelstandoff": 4, **column_ticks(names, height)}
    return figure.update_layout(yaxis=axis, width=width, height=height + MARGINS + below)
