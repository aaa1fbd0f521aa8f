"""Draw the effect of targets on their own category, beside their effect on the others."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from jaxtyping import Float

from tl_modules.errors import ModulesError
from tl_modules.modules.module import Module
from tl_modules.plots.style import (
    COLOURS,
    GREY,
    FigureTemplate,
    graph_objects,
    names_of,
    plotly_text,
    styled,
)
from tl_modules.runtime.arguments import checked
from tl_modules.tables.effects_frame import check_effects, check_one_run, is_own

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

_COLUMNS = ("module", "category", "own", "effect", "ci_low", "ci_high", "control_mean")


@checked
@styled
def plot_costs(
    effects: pd.DataFrame,
    *,
    modules: Iterable[Module] | None = None,
    unit: str = "nats per token",
    template: FigureTemplate = None,
) -> "Figure":
    """Draw each target's effect on its own category against its mean effect on the others.

    The figure shows how selective targets are. A target on the dashed line harms all categories
    alike; a selective target lies above it. A line leads from each target to a cross, the means of
    its controls; bars are 95 % intervals over prompts. A loss that increases by ``x`` nats per
    token multiplies perplexity by ``exp(x)``.

    Args:
        effects: The table that ``module_effects`` returned for modules and other targets.
        modules: The modules, whose names are shown; without them, their numbers are shown.
        unit: The unit of the effect, for the axes' titles.
        template: The figure's style: a plotly template or its name, such as ``"simple_white"`` or
            ``"plotly_dark"``. By default dark text on white.

    Returns:
        A plotly figure.

    Raises:
        ModulesError: If plotly is not installed or lacks the template, the table lacks columns,
            ``modules`` lacks a module of the table, or no target was tested on its own category and
            another one.
    """
    plotly = graph_objects()
    check_effects(effects, _COLUMNS)
    check_one_run(effects)
    effects = effects.assign(own=is_own(effects))
    on_own = effects.loc[effects["own"]].set_index("module")
    others = effects.loc[~effects["own"]].groupby("module", sort=False)
    cost = others[["effect", "control_mean"]].mean()
    labels = [label for label in on_own.index if label in cost.index]
    if not labels:
        raise ModulesError(
            "effects should hold a target's own category and another category; no target has both. "
            "Test on prompts of several categories."
        )
    names = names_of(labels, modules)
    figure = plotly.Figure()
    ends = [0.0]
    name_positions = _name_positions(
        np.stack([cost.loc[labels, "effect"], on_own.loc[labels, "effect"]], axis=1).astype(float)
    )
    for number, (label, name, name_position) in enumerate(
        zip(labels, names, name_positions, strict=True)
    ):
        vertical, horizontal = on_own.loc[label], cost.loc[label]
        colour = COLOURS[number % len(COLOURS)]
        x = [horizontal["control_mean"], horizontal["effect"]]
        y = [vertical["control_mean"], vertical["effect"]]
        above = [0.0, vertical["ci_high"] - vertical["effect"]]
        below = [0.0, vertical["effect"] - vertical["ci_low"]]
        ends += [*x, *y]
        figure.add_scatter(
            x=x,
            y=y,
            error_y={"type": "data", "array": above, "arrayminus": below, "width": 3},
            mode="lines+markers+text",
            text=["", name],
            textposition=name_position,
            cliponaxis=False,
            name=name,
            line={"color": colour, "width": 1},
            marker={"size": 9, "symbol": ["x-thin-open", "circle"], "color": colour},
            hovertemplate=f"{name}<br>others %{{x:.3g}}, own %{{y:.3g}}<extra></extra>",
        )
    low, high = float(np.nanmin(ends)), float(np.nanmax(ends))
    figure.add_shape(
        type="line", x0=low, y0=low, x1=high, y1=high, line={"dash": "dash", "color": GREY}
    )
    figure.update_xaxes(title_text=f"mean effect on the other categories ({plotly_text(unit)})")
    figure.update_yaxes(title_text=f"effect on the own category ({plotly_text(unit)})")
    title = "What each target does, and what it costs (crosses: its controls)"
    return figure.update_layout(title_text=title, showlegend=False, width=800, height=560)


def _name_positions(places: Float[np.ndarray, "targets 2"]) -> list[str]:
    """Place each point's name away from the nearest other point and inside the figure."""
    extent = np.ptp(places, axis=0)
    scaled = (places - places.min(axis=0)) / np.where(extent > 0, extent, 1)
    positions = []
    for number, (x, y) in enumerate(scaled):
        others = np.delete(scaled, number, axis=0)
        if not len(others):
            return ["top right"]
        near_x, near_y = others[((others - (x, y)) ** 2).sum(axis=1).argmin()]
        up = "bottom" if near_y > y else "top"
        # A name to the right of a point near the right edge would be cut off, and vice versa.
        left = x > 0.75 or (near_x > x and x > 0.15)
        positions.append(f"{up} {'left' if left else 'right'}")
    return positions
