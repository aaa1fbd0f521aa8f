"""Draw the figure to choose K by."""

from typing import TYPE_CHECKING

import pandas as pd

from tl_modules.errors import ModulesError
from tl_modules.plots.style import COLOURS, FigureTemplate, styled
from tl_modules.runtime.arguments import checked

if TYPE_CHECKING:
    from plotly.graph_objects import Figure, Scatter

_COLOURS = {"seeds": COLOURS[0], "null": COLOURS[1], "halves": COLOURS[2]}
_NAMES = {"seeds": "seeds", "halves": "halves of the prompts", "null": "null: permuted columns"}


@checked
@styled
def plot_n_modules(table: pd.DataFrame, *, template: FigureTemplate = None) -> "Figure":
    """Draw agreement and held-out L over K, to choose the number of modules.

    The left panel shows the adjusted Rand index of the units' labels between seeds, between halves
    of the prompts, and between halves of a column-permuted matrix (the null). The right panel shows
    the L of one half under the other half's labels, divided by the half's L under its own labels.
    Bars are standard deviations.

    Args:
        table: The table that ``choose_n_modules`` returned.
        template: The figure's style: a plotly template or its name, such as ``"simple_white"`` or
            ``"plotly_dark"``. By default dark text on white.

    Returns:
        A plotly figure.

    Raises:
        ModulesError: If plotly is not installed or lacks the template, or the table lacks the index
            or the columns.
    """
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
        own_discovery = rows["L", "mean"]
        agreement = pd.DataFrame({"mean": rows["ari", "mean"], "std": rows["ari", "std"]})
        share = pd.DataFrame(
            {
                "mean": rows["held_out_L", "mean"] / own_discovery,
                "std": rows["held_out_L", "std"] / own_discovery,
            }
        )
        figure.add_trace(_line(agreement, kind), row=1, col=1)
        if kind != "seeds":  # runs of different seeds share one matrix: nothing is held out
            figure.add_trace(_line(share, kind).update(showlegend=False), row=1, col=2)
    figure.update_xaxes(
        title_text="K (modules)", tickvals=sorted(set(table.index.get_level_values("n_modules")))
    )
    figure.update_yaxes(title_text="adjusted Rand index of units' labels", row=1, col=1)
    figure.update_yaxes(title_text="L on the held-out half / L on its own", row=1, col=2)
    return figure.update_layout(
        title_text="How many modules: stability over K",
        legend={"orientation": "h", "y": -0.25},
        width=950,
        height=430,
    )


def _line(values: pd.DataFrame, kind: str) -> "Scatter":
    """Return a line of ``mean`` over K with error bars of ``std``."""
    from plotly.graph_objects import Scatter

    return Scatter(
        x=values.index.tolist(),
        y=values["mean"].tolist(),
        error_y={"type": "data", "array": values["std"].fillna(0).tolist()},
        name=_NAMES[kind],
        line={"color": _COLOURS[kind]},
        mode="lines+markers",
    )
