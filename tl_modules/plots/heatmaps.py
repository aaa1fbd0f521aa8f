"""Draw modules as rows of a heat map: over the layers, and over the categories they cover."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np

from tl_modules.interpret.categories_covered import Coverage
from tl_modules.interpret.depth import module_layers
from tl_modules.modules.module import Module, as_list
from tl_modules.plots.cells import (
    MOST_TEXTS,
    column_ticks,
    frame,
    stacked,
    texts,
    with_module_axis,
)
from tl_modules.plots.style import (
    DIVERGING,
    SEQUENTIAL,
    FigureTemplate,
    graph_objects,
    module_name,
    names_of,
    plotly_text,
    styled,
)
from tl_modules.runtime.arguments import checked

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

_WIDTH = 800
_PLOT_WIDTH = 560  # pixels left beside names and colour bar


@checked
@styled
def plot_layers(modules: Module | Iterable[Module], *, template: FigureTemplate = None) -> "Figure":
    """Draw where in the model each module's units lie: layers across, modules down.

    Colour is the number of units in a layer divided by the number expected by chance, on a log
    scale. White marks as many units as expected, red more, blue fewer. The scale ends at the most
    extreme cell, and at a factor of 8 at most.

    Args:
        modules: A ``ModuleSet``, several modules of one set, or one module.
        template: The figure's style: a plotly template or its name, such as ``"simple_white"`` or
            ``"plotly_dark"``. By default dark text on white.

    Returns:
        A plotly figure; ``module_layers`` returns its numbers.

    Raises:
        ModulesError: If plotly is not installed or lacks the template, or as ``module_layers``
            raises.
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
        customdata=stacked(grids, names, shown),
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
    figure.update_xaxes(title_text="layer", **column_ticks(shown, _PLOT_WIDTH))
    return with_module_axis(figure, names, _WIDTH)


@checked
@styled
def plot_coverage(
    coverage: Coverage,
    *,
    modules: Iterable[Module] | None = None,
    template: FigureTemplate = None,
) -> "Figure":
    """Draw the categories that modules cover: categories across, modules down.

    Colour is the share of the module's samples that belong to the category. A frame marks the best
    module of each covered category: more than ``least_share`` of its samples belong to the
    category.

    Args:
        coverage: The result of ``tlm.coverage``.
        modules: The modules, whose names are shown; without them, their numbers are shown.
        template: The figure's style: a plotly template or its name, such as ``"simple_white"`` or
            ``"plotly_dark"``. By default dark text on white.

    Returns:
        A plotly figure.

    Raises:
        ModulesError: If plotly is not installed or lacks the template, or ``modules`` lacks a
            module of the table.
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
        customdata=stacked(grids, names, shown),
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
    figure = plotly.Figure(heatmap)
    if len(labels) <= MOST_TEXTS:
        said = [[f"{share:.0%}" if share >= 0.005 else "" for share in row] for row in shares]
        figure.add_trace(texts(shares, np.array(said, dtype=object), SEQUENTIAL, (0.0, 1.0)))
    figure.update_layout(
        title_text=f"{n_covered} of {len(per_category)} categories have a module (frames)"
    )
    figure.update_xaxes(title_text="category of prompts", **column_ticks(shown, _PLOT_WIDTH))
    frames = [
        (labels.index(module), number)
        for number, (module, covered) in enumerate(
            zip(per_category["module"], per_category["covered"], strict=True)
        )
        if covered
    ]
    figure.update_layout(shapes=[frame(m, c) for m, c in frames])
    return with_module_axis(figure, names, _WIDTH)
