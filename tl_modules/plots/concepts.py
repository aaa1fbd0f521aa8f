"""Draw how much of a concept each target leaves, beside the rest of what the target changes."""

from typing import TYPE_CHECKING, Annotated

import numpy as np
import pandas as pd

from tl_modules.errors import ModulesError, check_type
from tl_modules.plots.style import COLOURS, GREY, FigureTemplate, plotly_text, styled
from tl_modules.runtime.arguments import Elsewhere, checked

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

_COLUMNS = (
    "label",
    "prompts",
    "auc",
    "auc_ci_low",
    "auc_ci_high",
    "auc_control_mean",
    "auc_clean",
)
_COST = ("lost", "lost_ci_low", "lost_ci_high", "lost_control_mean")


@checked
@styled
def plot_concepts(
    effects: Annotated[pd.DataFrame, Elsewhere("a table")], *, template: FigureTemplate = None
) -> "Figure":
    """Plot how much of the concept each target leaves against how much loss it adds.

    Each target has one point per set of prompts. A faithful target is low and left: a fresh probe
    no longer finds the concept (0.5, the dashed line, is chance), and the loss on prompts without
    the concept does not rise. The line at the top is the probe's score without an intervention.
    Crosses are the means of the controls; bars are 95 % intervals over prompts.

    Args:
        effects: The table that ``concept_effects`` returned.
        template: The figure's style: a plotly template or its name, such as ``"simple_white"`` or
            ``"plotly_dark"``. By default dark text on white.

    Returns:
        A plotly figure with one panel per set of prompts.

    Raises:
        ModulesError: If plotly is not installed or lacks the template, or the table lacks columns
            or rows.
    """
    from plotly.subplots import make_subplots

    check_type(
        effects, pd.DataFrame, "effects should be a table", "Pass what concept_effects returned."
    )
    missing = [name for name in (*_COLUMNS, *_COST) if name not in effects]
    if missing or not len(effects):
        raise ModulesError(
            f"effects should be the table that concept_effects returned; it lacks "
            f"{missing or 'rows'}."
        )
    sets = effects["prompts"].drop_duplicates().tolist()
    titles = [plotly_text(str(name)) for name in sets]
    figure = make_subplots(cols=len(sets), shared_yaxes=True, subplot_titles=titles)
    targets = effects["label"].drop_duplicates().tolist()
    for _, row in effects.iterrows():
        name, column = plotly_text(str(row["label"])), sets.index(row["prompts"]) + 1
        number = targets.index(row["label"])
        bars = {
            axis: {
                "array": [0.0, row[f"{what}_ci_high"] - row[what]],
                "arrayminus": [0.0, row[what] - row[f"{what}_ci_low"]],
                "width": 3,
                "thickness": 1,
            }
            for axis, what in (("error_x", "lost"), ("error_y", "auc"))
        }
        figure.add_scatter(
            x=[row["lost_control_mean"], row["lost"]],
            y=[row["auc_control_mean"], row["auc"]],
            mode="lines+markers",
            name=name,
            legendgroup=str(number),
            showlegend=column == 1,
            line={"color": COLOURS[number % len(COLOURS)], "width": 1},
            marker={"size": 9, "symbol": ["x-thin-open", "circle"]},
            hovertemplate=f"{name}<br>lost %{{x:.3g}}, AUC %{{y:.3g}}<extra></extra>",
            row=1,
            col=column,
            **bars,
        )
    for column, name in enumerate(sets, start=1):
        clean = float(effects.loc[effects["prompts"] == name, "auc_clean"].iloc[0])
        for height, dash in ((clean, "solid"), (0.5, "dash")):
            line = {"dash": dash, "color": GREY, "width": 1}
            figure.add_hline(y=height, line=line, row=1, col=column)  # pyright: ignore
    figure.update_xaxes(title_text="lost: rise of the loss without the concept (nats per token)")
    figure.update_yaxes(title_text="AUC of a fresh probe", col=1)
    # Chance, 0.5, is always in view, so that an AUC of 0.9 does not look like a small one.
    shown = effects[["auc", "auc_ci_low", "auc_control_mean"]].to_numpy(dtype=float)
    lowest = min(0.5, float(np.nanmin(shown)))
    figure.update_yaxes(range=[lowest - 0.05, 1.05])
    title = "What is left of the concept, and what else is lost (crosses: controls)"
    return figure.update_layout(title_text=title, width=960, height=480)
