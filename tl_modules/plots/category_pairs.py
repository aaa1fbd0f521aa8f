"""Draw a table of pairs of categories as a heatmap."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from tl_modules.errors import ModulesError
from tl_modules.plots.cells import texts
from tl_modules.plots.style import (
    DIVERGING,
    MARGINS,
    SEQUENTIAL,
    FigureTemplate,
    graph_objects,
    height_for,
    plotly_text,
    styled,
    ticks,
)
from tl_modules.runtime.arguments import checked

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

_WIDTH = 800
_PLOT_WIDTH = 560  # pixels left beside names and colour bar
_MOST_TEXTS = 20  # categories that have room for text


@dataclass(frozen=True)
class _Look:
    """How one of the two tables is drawn."""

    title: str
    across: str
    """The column with the second category."""
    count: str
    value: str
    lowest: int
    """The value at the scale's lower end; the upper one is 1."""
    scale: Sequence[Sequence[float | str]]
    bar: str
    cell: str
    hover: str


_CONFUSION = _Look(
    title="Which categories are taken for which",
    across="predicted",
    count="n",
    value="share",
    lowest=0,
    scale=SEQUENTIAL,
    bar="share of the<br>category",
    cell="{:.0%}",
    hover="%{customdata[0]}, predicted %{customdata[1]}<br>%{customdata[2]:.0f} prompts, %{z:.0%} "
    "of the category's<extra></extra>",
)
_SIMILARITY = _Look(
    title="How alike the modules of categories are",
    across="other",
    count="n_pairs",
    value="similarity",
    lowest=-1,
    scale=DIVERGING,
    bar="correlation",
    cell="{:.2f}",
    hover="%{customdata[0]} and %{customdata[1]}<br>correlation %{z:.2f} over %{customdata[2]:.0f} "
    "pairs of modules<extra></extra>",
)


@checked
@styled
def plot_categories(table: pd.DataFrame, *, template: FigureTemplate = None) -> "Figure":
    """Draw which categories are taken for which, or how alike the modules of categories are.

    A confusion table is drawn as shares of each row's category: modules that tell all categories
    apart have a full diagonal. Similarities are drawn from blue (-1) over white to red (1); an
    empty cell has no pair of modules.

    Args:
        table: What ``probe_confusion`` or ``category_similarity`` returned.
        template: The figure's style: a plotly template or its name, such as ``"simple_white"`` or
            ``"plotly_dark"``. By default dark text on white.

    Returns:
        A plotly figure: ``category`` down, ``predicted`` or ``other`` across.

    Raises:
        ModulesError: If plotly is not installed or lacks the template, or the table is neither of
            the two, has no rows, or has a pair of categories twice.
    """
    plotly = graph_objects()
    look = _look_of(table)
    n_twice = int(table.duplicated(["category", look.across]).sum())
    if n_twice or not len(table):
        raise ModulesError(
            f"table should hold each pair of categories once, and at least one; {n_twice} of its "
            f"{len(table)} rows are of a pair that another row has. Draw each table by itself."
        )
    # In the table's order: a pivot alone would sort the categories.
    rows, columns = (list(dict.fromkeys(table[name])) for name in ("category", look.across))
    wide = table.pivot(index="category", columns=look.across)
    values, counts = (
        wide[name].loc[rows, columns].to_numpy(dtype=float) for name in (look.value, look.count)
    )
    down, across = ([plotly_text(str(name)) for name in names] for names in (rows, columns))
    named = np.meshgrid(np.array(down, object), np.array(across, object), indexing="ij")
    heatmap = plotly.Heatmap(
        z=values,
        x=list(range(len(columns))),
        y=list(range(len(rows))),
        customdata=np.stack([*named, counts.astype(object)], axis=-1),
        zmin=look.lowest,
        zmax=1,
        colorscale=look.scale,
        colorbar={"title": {"text": look.bar}},
        hovertemplate=look.hover,
    )
    figure = plotly.Figure(heatmap).update_layout(title_text=look.title)
    if len(columns) <= _MOST_TEXTS:
        said = [["" if np.isnan(v) else look.cell.format(v) for v in row] for row in values]
        limits = (float(look.lowest), 1.0)
        figure.add_trace(texts(values, np.array(said, dtype=object), look.scale, limits))
    height = height_for(len(rows))
    figure.update_xaxes(
        title_text=look.across,
        range=[-0.5, len(columns) - 0.5],
        **ticks(across, range(len(columns)), len(columns), _PLOT_WIDTH),
    )
    figure.update_yaxes(
        title_text="category",
        range=[len(rows) - 0.5, -0.5],  # texts would widen the one that plotly finds
        **ticks(down, range(len(rows)), len(rows), height),
    )
    return figure.update_layout(width=_WIDTH, height=height + MARGINS)


def _look_of(table: pd.DataFrame) -> _Look:
    """Find out which of the two tables this is.

    Raises:
        ModulesError: If it is neither of them.
    """
    for look in (_CONFUSION, _SIMILARITY):
        if {"category", look.across, look.count, look.value} <= set(table.columns):
            return look
    raise ModulesError(
        "table should be what probe_confusion or category_similarity returned; its columns are "
        f"{list(table.columns)}. Pass that table."
    )
