"""Draw modules as rows of a heatmap: over the layers, and over categories of prompts."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from tl_modules.interpret.categories_covered import Coverage
from tl_modules.interpret.depth import module_layers
from tl_modules.modules.module import Module, as_list
from tl_modules.plots.style import (
    DIVERGING,
    MARGINS,
    SEQUENTIAL,
    graph_objects,
    height_for,
    module_name,
    names_of,
    plotly_text,
    readable,
    rooted_scale,
    ticks,
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

_WIDTH = 800
_MOST_TEXTS = 40  # rows that have room for text
_PLOT_WIDTH = 560  # pixels left beside names and colour bar


@checked
def plot_layers(modules: Module | Iterable[Module]) -> "Figure":
    """Draw where in the model each module's units lie: layers across, modules down.

    Colour is the number of units in a layer divided by the number expected by chance, on a log
    scale. White marks as many units as expected, red more, blue fewer. The scale ends at the most
    extreme cell, and at a factor of 8 at most.

    Args:
        modules: A ``ModuleSet``, several modules of one set, or one module.

    Returns:
        A plotly figure; ``module_layers`` returns its numbers.

    Raises:
        ModulesError: If plotly is not installed, or as ``module_layers`` raises.
    """
    plotly = graph_objects()
    module_list = as_list(modules)
    table = module_layers(module_list)
    layers = table["layer"].unique().tolist()
    grids = {
        name: table[name].to_numpy(dtype=float).reshape(len(module_list), len(layers))
        for name in ("ratio", "n_units", "expected", "p_bh")
    }
    with np.errstate(divide="ignore"):  # a layer without units: -inf, clipped to the scale's end
        logs = np.log2(grids["ratio"])
    # Between a factor of 2, so that noise does not fill the scale, and of 8, which a single rare
    # cell may exceed by far.
    finite = np.abs(logs[np.isfinite(logs)])
    limit = float(np.clip(finite.max(initial=0.0), 1, 3))
    marks = list(range(-int(limit), int(limit) + 1))
    names = [module_name(module) for module in module_list]
    shown = [str(layer) for layer in layers]
    heatmap = plotly.Heatmap(
        z=np.clip(logs, -limit, limit),
        x=list(range(len(layers))),
        y=list(range(len(module_list))),
        customdata=_stacked(grids, names, shown),
        zmin=-limit,
        zmax=limit,
        colorscale=DIVERGING,
        colorbar={
            "title": {"text": "units in layer /<br>expected"},
            "tickvals": marks,
            "ticktext": [f"{2**mark}" if mark >= 0 else f"1/{2**-mark}" for mark in marks],
        },
        hovertemplate=(
            "module %{customdata[4]}<br>layer %{customdata[5]}<br>"
            "%{customdata[1]:.0f} units, expected %{customdata[2]:.1f} (x %{customdata[0]:.2f})<br>"
            "p (BH) %{customdata[3]:.2g}<extra></extra>"
        ),
    )
    figure = plotly.Figure(heatmap).update_layout(title_text="Where modules lie")
    figure.update_xaxes(title_text="layer", **_ticks(shown, _PLOT_WIDTH))
    return _with_module_axis(figure, names)


@checked
def plot_effects(
    effects: pd.DataFrame,
    *,
    modules: Iterable[Module] | None = None,
    unit: str = "nats per token",
) -> "Figure":
    """Draw the effect of ablating each module on each category: categories across, modules down.

    An asterisk marks an effect above the controls' effects (``p_bh`` at most 0.05). A frame marks
    the module's own category. If modules are functional, each row is strongest in its frame;
    ``selectivity`` tests this. Large effects alone are no evidence, because random controls may
    increase the loss of every category as well. Colours change faster near 0.

    Args:
        effects: The table that ``module_effects`` returned.
        modules: The modules, whose names are shown; without them, their numbers are shown. Those
            that ``effects`` calls shared by all are named so.
        unit: The unit of the effect, for the colour bar.

    Returns:
        A plotly figure.

    Raises:
        ModulesError: If plotly is not installed, the table lacks columns, or ``modules`` lacks a
            module of the table.
    """
    plotly = graph_objects()
    check_effects(effects, ("module", "category", "own", "effect", "control_mean", "p_bh"))
    check_one_run(effects)
    effects = effects.assign(own=is_own(effects))
    # In the table's order: a pivot alone would sort modules and categories.
    labels = list(dict.fromkeys(effects["module"]))
    categories = list(dict.fromkeys(effects["category"]))
    grids = {
        name: effects.pivot(index="module", columns="category", values=name)
        .loc[labels, categories]
        .to_numpy(dtype=float)
        for name in ("effect", "control_mean", "p_bh", "own")
    }
    is_own_cell = grids.pop("own") == 1
    names, shown = (
        names_of(labels, modules, shared_modules(effects) or ()),
        [plotly_text(str(category)) for category in categories],
    )
    limit = float(np.nanmax(np.abs(grids["effect"]), initial=0.0)) or 1.0
    heatmap = plotly.Heatmap(
        z=grids["effect"],
        x=list(range(len(categories))),
        y=list(range(len(labels))),
        customdata=_stacked(grids, names, shown),
        text=np.where(grids["p_bh"] <= SIGNIFICANT, "*", ""),
        texttemplate="%{text}",
        zmin=-limit,
        zmax=limit,
        colorscale=rooted_scale(),
        colorbar={"title": {"text": f"effect<br>({plotly_text(unit)})"}},
        hovertemplate=(
            "module %{customdata[3]}<br>on %{customdata[4]}<br>"
            "effect %{z:.3g}, controls' %{customdata[1]:.3g}<br>"
            "p (BH) %{customdata[2]:.2g}<extra></extra>"
        ),
    )
    figure = plotly.Figure(heatmap).update_layout(
        title_text="What ablating each module does (* above its controls, frame: own category)"
    )
    figure.update_xaxes(
        title_text="category of prompts",
        **_ticks(shown, _PLOT_WIDTH),
    )
    figure.update_layout(shapes=[_frame(m, c) for m, c in np.argwhere(is_own_cell).tolist()])
    return _with_module_axis(figure, names)


@checked
def plot_coverage(coverage: Coverage, *, modules: Iterable[Module] | None = None) -> "Figure":
    """Draw the categories that modules cover: categories across, modules down.

    Colour is the share of the module's samples that belong to the category. A frame marks the best
    module of each covered category: more than ``least_share`` of its samples belong to the
    category.

    Args:
        coverage: The result of ``tlm.coverage``.
        modules: The modules, whose names are shown; without them, their numbers are shown.

    Returns:
        A plotly figure.

    Raises:
        ModulesError: If plotly is not installed, or ``modules`` lacks a module of the table.
    """
    plotly = graph_objects()
    wide = coverage.table.pivot(index="module", columns="category")
    labels, per_category = wide.index.tolist(), coverage.categories
    categories = per_category["category"].tolist()
    grids = {
        name: wide[name][categories].to_numpy(dtype=float)
        for name in ("share_of_module", "share_of_category", "n_samples", "mean_activation")
    }
    names, shown = (
        names_of(labels, modules),
        [plotly_text(str(category)) for category in categories],
    )
    shares = grids["share_of_module"]
    heatmap = plotly.Heatmap(
        z=shares,
        x=list(range(len(categories))),
        y=list(range(len(labels))),
        customdata=_stacked(grids, names, shown),
        text=[[f"{share:.0%}" if share >= 0.005 else "" for share in row] for row in shares],
        texttemplate="%{text}" if len(labels) <= _MOST_TEXTS else None,
        zmin=0,
        zmax=1,
        colorscale=SEQUENTIAL,
        colorbar={"title": {"text": "share of the<br>module's samples"}, "tickformat": ".0%"},
        hovertemplate=(
            "module %{customdata[4]}<br>%{customdata[5]}<br>"
            "%{customdata[0]:.0%} of the module's samples, %{customdata[1]:.0%} of the category's "
            "(%{customdata[2]})<br>mean activation %{customdata[3]:.2f}<extra></extra>"
        ),
    )
    n_covered = int(np.count_nonzero(per_category["covered"]))
    figure = plotly.Figure(heatmap).update_layout(
        title_text=f"{n_covered} of {len(per_category)} categories have a module (frames)"
    )
    figure.update_xaxes(title_text="category of prompts", **_ticks(shown, _PLOT_WIDTH))
    frames = [
        (labels.index(module), number)
        for number, (module, covered) in enumerate(
            zip(per_category["module"], per_category["covered"], strict=True)
        )
        if covered
    ]
    figure.update_layout(shapes=[_frame(m, c) for m, c in frames])
    return _with_module_axis(figure, names)


def _frame(row: int, column: int) -> dict[str, Any]:
    """Return a rectangle around a cell."""
    corners = {"x0": column - 0.5, "x1": column + 0.5, "y0": row - 0.5, "y1": row + 0.5}
    return {"type": "rect", **corners, "line": {"color": "#111111"}}


def _stacked(grids: dict[str, np.ndarray], rows: list[str], columns: list[str]) -> np.ndarray:
    """Collect the data of each cell's hover text: its numbers, then its row's and column's name."""
    titles = np.meshgrid(np.array(rows, dtype=object), np.array(columns, dtype=object))
    numbers = [grid.astype(object) for grid in grids.values()]
    return np.stack([*numbers, *(names.T for names in titles)], axis=-1)


def _ticks(names: list[str], pixels: int) -> dict[str, Any]:
    """Label the rows, or columns, that have room for a name."""
    return ticks(names, range(len(names)), len(names), pixels)


def _with_module_axis(figure: "Figure", names: list[str]) -> "Figure":
    """Label the figure's rows with the modules' names, the first on top."""
    height = height_for(len(names))
    figure.update_yaxes(
        title_text="module",
        autorange="reversed",
        **_ticks(names, height),
    )
    return readable(figure).update_layout(width=_WIDTH, height=height + MARGINS)
