"""Choosing K, as a figure."""

from typing import TYPE_CHECKING

import pandas as pd

from tl_modules.errors import ModulesError
from tl_modules.plots.style import COLOURS, graph_objects, readable
from tl_modules.runtime.arguments import checked

if TYPE_CHECKING:
    from plotly.graph_objects import Figure, Scatter

_COLOURS = {"seeds": COLOURS[0], "null": COLOURS[1], "halves": COLOURS[2]}
_NAMES = {"seeds": "seeds", "halves": "halves of the prompts", "null": "null: permuted columns"}


@checked
def plot_n_modules(table: pd.DataFrame) -> "Figure":
    """Agreement and L over K, to choose K by.

    Left: the adjusted Rand index of the units' labels between seeds, between halves of the prompts,
    and between halves of a column-permuted matrix. Right: L of the halves' own discoveries and of
    the second half under the first one's labels, as a share of the first. Bars are standard
    deviations.

    Args:
        table: What ``choose_n_modules`` returned.

    Returns:
        A plotly figure.

    Raises:
        ModulesError: If plotly is not installed, or the table is another one.
    """
    graph_objects()  # refuses where plotly is missing
    from plotly.subplots import make_subplots

    if list(table.index.names) != ["n_modules", "kind"] or ("ari", "mean") not in table.columns:
        raise ModulesError(
            f"table should be what choose_n_modules returned; its index is {table.index.names}."
        )
    figure = make_subplots(
        cols=2,
        subplot_titles=("Do discoveries agree?", "Does one half explain the other?"),
        horizontal_spacing=0.12,
    )
    for kind in _NAMES:
        rows = table.xs(kind, level="kind")
        own = rows["L", "mean"]
        agreement = pd.DataFrame({"mean": rows["ari", "mean"], "std": rows["ari", "std"]})
        share = pd.DataFrame(
            {"mean": rows["held_out_L", "mean"] / own, "std": rows["held_out_L", "std"] / own}
        )
        figure.add_trace(_line(agreement, kind), row=1, col=1)
        if kind != "seeds":
            figure.add_trace(_line(share, kind).update(showlegend=False), row=1, col=2)
    figure.update_xaxes(
        title_text="K (modules)", tickvals=sorted(set(table.index.get_level_values("n_modules")))
    )
    figure.update_yaxes(title_text="adjusted Rand index of units' labels", row=1, col=1)
    figure.update_yaxes(title_text="L on the held-out half / L on its own", row=1, col=2)
    return readable(figure).update_layout(
        title_text="How many modules: stability over K",
        legend={"orientation": "h", "y": -0.25},
        width=950,
        height=430,
    )


def _line(values: pd.DataFrame, kind: str) -> "Scatter":
    """``mean`` over K with bars of ``std``."""
    from plotly.graph_objects import Scatter

    return Scatter(
        x=values.index.tolist(),
        y=values["mean"].tolist(),
        error_y={"type": "data", "array": values["std"].fillna(0).tolist()},
        name=_NAMES[kind],
        line={"color": _COLOURS[kind]},
        mode="lines+markers",
    )
