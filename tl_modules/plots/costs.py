"""What targets do to their own category, beside what they cost elsewhere."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from jaxtyping import Float

from tl_modules.errors import ModulesError
from tl_modules.modules.module_set import Module
from tl_modules.plots.style import COLOURS, graph_objects, names_of, readable, text
from tl_modules.runtime.arguments import checked
from tl_modules.tables.effects_frame import check_effects, check_one_run, is_own

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

_COLUMNS = ("module", "category", "own", "effect", "ci_low", "ci_high", "control_mean")


@checked
def plot_costs(
    effects: pd.DataFrame,
    *,
    modules: Iterable[Module] | None = None,
    unit: str = "nats per token",
) -> "Figure":
    """Each target as a point: its effect on its own category against that on the others.

    Up is what it is meant to do, right is what else it costs: on the dashed line it harms
    everything alike. A line leads to the cross of its controls' means; bars are 95 % intervals over
    prompts. A loss that rises by ``x`` nats per token multiplies perplexity by ``exp(x)``.

    Args:
        effects: What ``module_effects`` returned, of modules and other targets.
        modules: The modules, for their names; numbers without them.
        unit: What the effect is measured in.

    Returns:
        A plotly figure.

    Raises:
        ModulesError: If plotly is not installed, the table is another one, ``modules`` lacks one of
            its modules, or no target's own category and another one are in it.
    """
    plotly = graph_objects()
    check_effects(effects, _COLUMNS)
    check_one_run(effects)
    effects = effects.assign(own=is_own(effects))
    own = effects.loc[effects["own"]].set_index("module")
    others = effects.loc[~effects["own"]].groupby("module", sort=False)
    cost = others[["effect", "control_mean"]].mean()
    labels = [label for label in own.index if label in cost.index]
    if not labels:
        raise ModulesError(
            "effects should hold a target's own category and another one; it holds none such. Test "
            "on prompts of several categories."
        )
    names = names_of(labels, modules)
    figure = plotly.Figure()
    ends = [0.0]
    sides = _sides(
        np.stack([cost.loc[labels, "effect"], own.loc[labels, "effect"]], axis=1).astype(float)
    )
    for number, (label, name, side) in enumerate(zip(labels, names, sides, strict=True)):
        here, there, colour = own.loc[label], cost.loc[label], COLOURS[number % len(COLOURS)]
        x = [there["control_mean"], there["effect"]]
        y = [here["control_mean"], here["effect"]]
        bar = [0.0, here["ci_high"] - here["effect"]], [0.0, here["effect"] - here["ci_low"]]
        ends += [*x, *y]
        figure.add_scatter(
            x=x,
            y=y,
            error_y={"type": "data", "array": bar[0], "arrayminus": bar[1], "width": 3},
            mode="lines+markers+text",
            text=["", name],
            textposition=side,
            cliponaxis=False,
            name=name,
            line={"color": colour, "width": 1},
            marker={"size": 9, "symbol": ["x-thin-open", "circle"], "color": colour},
            hovertemplate=f"{name}<br>others %{{x:.3g}}, own %{{y:.3g}}<extra></extra>",
        )
    low, high = float(np.nanmin(ends)), float(np.nanmax(ends))
    figure.add_shape(
        type="line", x0=low, y0=low, x1=high, y1=high, line={"dash": "dash", "color": "#808080"}
    )
    figure.update_xaxes(title_text=f"mean effect on the other categories ({text(unit)})")
    figure.update_yaxes(title_text=f"effect on the own category ({text(unit)})")
    title = "What each target does, and what it costs (crosses: its controls)"
    return readable(figure).update_layout(title_text=title, showlegend=False, width=800, height=560)


def _sides(places: Float[np.ndarray, "targets 2"]) -> list[str]:
    """On which side of each point its name stands: away from the nearest other, and inside."""
    spread = np.ptp(places, axis=0)
    scaled = (places - places.min(axis=0)) / np.where(spread > 0, spread, 1)
    found = []
    for at, (x, y) in enumerate(scaled):
        others = np.delete(scaled, at, axis=0)
        if not len(others):
            return ["top right"]
        near_x, near_y = others[((others - (x, y)) ** 2).sum(axis=1).argmin()]
        up = "bottom" if near_y > y else "top"
        left = x > 0.75 or (near_x > x and x > 0.15)
        found.append(f"{up} {'left' if left else 'right'}")
    return found
