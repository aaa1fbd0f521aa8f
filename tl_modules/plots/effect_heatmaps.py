"""Draw the effect of ablating each module on each category, beside the effect of its controls."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from jaxtyping import Float, Shaped

from tl_modules.modules.module import Module
from tl_modules.plots.cells import (
    MOST_TEXTS,
    column_ticks,
    frame,
    stacked,
    texts,
    with_module_axis,
)
from tl_modules.plots.style import (
    FigureTemplate,
    graph_objects,
    names_of,
    plotly_text,
    rooted_scale,
    styled,
)
from tl_modules.runtime.arguments import checked
from tl_modules.tables.effects_frame import (
    SIGNIFICANT,
    check_effects,
    check_one_run,
    is_own,
    shared_modules,
)

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

_NAMES_AND_SCALE = 340  # pixels beside the cells
_PER_COLUMN = 47  # pixels that a number and an asterisk need
_MARKS = (f"* above its controls: p (BH) at most {SIGNIFICANT}", "frame: the module's own category")
_HOVER = (
    "module %{customdata[3]}<br>on %{customdata[4]}<br>"
    "effect %{customdata[0]:.3g}, controls' %{customdata[1]:.3g}<br>"
    "p (BH) %{customdata[2]:.2g}<extra></extra>"
)
_NOTES = 40  # pixels of the notes below the axes
_WIDTHS = (900, 1400)  # pixels, of a figure with few and with many categories


@checked
@styled
def plot_effects(
    effects: pd.DataFrame,
    *,
    modules: Iterable[Module] | None = None,
    unit: str = "nats per token",
    template: FigureTemplate = None,
) -> "Figure":
    """Draw the effect of ablating each module on each category, beside the same of its controls.

    Both heat maps have the modules down, the categories across, and one scale of colours, which
    change faster near 0. Large effects alone are no evidence, because random controls may increase
    the loss of every category as well: a module matters where the left cell is stronger than the
    right one. An asterisk marks an effect above the controls' effects (``p_bh`` at most 0.05). A
    frame marks the module's own category. If modules are functional, each row is strongest in its
    frame; ``selectivity`` tests this. Below the controls stands the smallest p-value that their
    number can give, where some cell has it.

    Args:
        effects: The table that ``module_effects`` returned.
        modules: The modules, whose names are shown; without them, their numbers are shown. Those
            that ``effects`` calls shared by all are named so.
        unit: The unit of the effect, for the colour bar.
        template: The figure's style: a plotly template or its name, such as ``"simple_white"`` or
            ``"plotly_dark"``. By default dark text on white.

    Returns:
        A plotly figure. A table without controls gives one heat map.

    Raises:
        ModulesError: If plotly is not installed or lacks the template, the table lacks columns, or
            ``modules`` lacks a module of the table.
    """
    graph_objects()
    from plotly.subplots import make_subplots

    check_effects(effects, ("module", "category", "own", "effect", "control_mean", "p_bh"))
    check_one_run(effects)
    # In the table's order: a pivot alone would sort modules and categories.
    labels = list(dict.fromkeys(effects["module"]))
    categories = list(dict.fromkeys(effects["category"]))
    grids = {
        name: effects.assign(own=is_own(effects))
        .pivot(index="module", columns="category", values=name)
        .loc[labels, categories]
        .to_numpy(dtype=float)
        for name in ("effect", "control_mean", "p_bh", "own")
    }
    frames = np.argwhere(grids.pop("own") == 1).tolist()
    names = names_of(labels, modules, shared_modules(effects) or ())
    shown = [plotly_text(str(category)) for category in categories]
    panels = {"each module ablated": grids["effect"]}
    if np.isfinite(grids["control_mean"]).any():
        panels["its controls ablated (mean)"] = grids["control_mean"]
    limit = float(np.nanmax(np.abs(list(panels.values())), initial=0.0)) or 1.0
    width = min(max(_NAMES_AND_SCALE + 2 * _PER_COLUMN * len(shown), _WIDTHS[0]), _WIDTHS[1])
    pixels = (width - _NAMES_AND_SCALE) // len(panels)
    has_room = pixels >= _PER_COLUMN * len(shown) and len(names) <= MOST_TEXTS
    figure = make_subplots(
        cols=len(panels), shared_yaxes=True, subplot_titles=list(panels), horizontal_spacing=0.03
    )
    data, scale = stacked(grids, names, shown), rooted_scale()
    for number, values in enumerate(panels.values(), start=1):
        said = _numbers(values, limit) if has_room else np.full(values.shape, "", dtype=object)
        if number == 1:
            said = said + np.where(grids["p_bh"] <= SIGNIFICANT, "*", "").astype(object)
        heatmap = {
            "z": values,
            "x": list(range(len(categories))),
            "y": list(range(len(labels))),
            "customdata": data,
            "zmin": -limit,
            "zmax": limit,
            "colorscale": scale,
            "showscale": number == len(panels),
            "colorbar": {"title": {"text": f"effect<br>({plotly_text(unit)})"}},
            "hovertemplate": _HOVER,
        }
        figure.add_heatmap(**heatmap, row=1, col=number)
        figure.add_trace(texts(values, said, scale, (-limit, limit)), row=1, col=number)
    figure.update_xaxes(range=[-0.5, len(shown) - 0.5], **column_ticks(shown, pixels))
    for number, notes in zip(range(1, len(panels) + 1), (_MARKS, _floor(effects)), strict=False):
        figure.update_xaxes(title_text="<br>".join(["category of prompts", *notes]), col=number)
    figure.update_layout(
        title_text="What ablating each module does, beside its controls",
        shapes=[
            frame(row, column, number)
            for number in range(1, len(panels) + 1)
            for row, column in frames
        ],
    )
    return with_module_axis(figure, names, width, _NOTES)


def _numbers(
    values: Float[np.ndarray, "rows columns"], limit: float
) -> Shaped[np.ndarray, "rows columns"]:
    """Return the cells' numbers as texts; small effects need their own number of digits."""
    digits = ".2f" if limit >= 0.1 else ".1e"
    said = [[f"{value:{digits}}".replace("-0.00", "0.00") for value in row] for row in values]
    return np.array(said, dtype=object)


def _floor(effects: pd.DataFrame) -> list[str]:
    """Say in lines how small a p-value can be, if some cell has the smallest one."""
    if not {"p_value", "n_cell_controls"} <= set(effects):  # a table of an earlier version
        return []
    p_values = effects["p_value"].to_numpy(dtype=float)
    n_controls = effects["n_cell_controls"].to_numpy(dtype=float, na_value=np.nan)
    floors = 1 / (1 + n_controls)
    at_floor = p_values <= floors * (1 + 1e-9)
    if not at_floor.any():
        return []
    n_cells, most = int(np.count_nonzero(at_floor)), int(n_controls[at_floor].max())
    cells = "1 cell has" if n_cells == 1 else f"{n_cells} cells have"
    return [
        f"{cells} the smallest p that {most} controls",
        f"can give: {1 / (1 + most):.2g} before correction",
    ]
