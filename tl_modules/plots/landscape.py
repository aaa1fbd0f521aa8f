"""Draw prompts as points by the modules that are active on them."""

from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from tl_modules.activations.matrix import ActivationMatrix
from tl_modules.activations.store import ActivationStore
from tl_modules.errors import check_at_least
from tl_modules.interpret.landscape import Projection, landscape
from tl_modules.modules.module_set import ModuleSet
from tl_modules.plots.style import (
    COLOURS,
    FigureTemplate,
    graph_objects,
    module_name,
    plotly_text,
    styled,
    wrapped,
)
from tl_modules.runtime.arguments import checked
from tl_modules.tables.labels import label_text

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

_SYMBOLS = ("circle", "diamond", "square", "cross", "triangle-up", "x", "star", "hexagon")
_SYMBOLS += (
    "triangle-down",
    "pentagon",
    "bowtie",
    "hourglass",
    "triangle-left",
    "star-square",
    "diamond-tall",
)
# Colours vary first: shapes are needed only if there are more groups than colours.
_STYLES = [(colour, symbol) for symbol, colour in product(_SYMBOLS, COLOURS)]
N_NUMBERED = 30
"""The largest number of modules whose numbers are drawn; more numbers would overlap."""


@checked
@styled
def plot_landscape(
    modules: ModuleSet,
    acts: ActivationMatrix | ActivationStore,
    *,
    projection: Projection = "pca",
    max_points: int = 3000,
    seed: int = 0,
    template: FigureTemplate = None,
) -> "Figure":
    """Draw prompts as points, near each other if the same modules are active, to see groups.

    Colour and shape show the prompt's category or, without categories, the module that is most
    active on the prompt. A module's number is at the middle of the prompts on which the module is
    the most active one.

    Args:
        modules: The modules.
        acts: Activations of any prompts, raw or normalised.
        projection: ``"pca"`` takes the two directions of most variance of the module means and
            writes their shares of the variance on the axes. ``"tsne"`` keeps neighbourhoods;
            distances between them mean nothing.
        max_points: If there are more prompts, this many random ones are drawn.
        seed: Seeds t-SNE and the choice of prompts.
        template: The figure's style: a plotly template or its name, such as ``"simple_white"`` or
            ``"plotly_dark"``. By default dark text on white.

    Returns:
        A plotly figure.

    Raises:
        ModulesError: If plotly is not installed or lacks the template, the projection is unknown,
            there are fewer than three samples, or the activations have other units.
    """
    plotly = graph_objects()
    check_at_least("max_points", max_points, 1)
    laid_out = landscape(modules, acts, projection=projection, seed=seed)
    names = [module_name(module) for module in modules]
    # The samples may have columns named x and y already; the landscape then uses other names.
    drawable = dict(zip(laid_out.columns, ("x", "y", "strongest"), strict=True))
    kept = laid_out.points.columns.intersection(["prompt", "category", *laid_out.columns])
    points = laid_out.points.loc[:, kept].rename(columns=drawable)
    drawn = points
    if len(points) > max_points:
        drawn = points.sample(max_points, random_state=seed).sort_index()
    # The modules' positions are of all prompts, not only of those drawn.
    figure = plotly.Figure([*_groups(drawn, names), _numbers(points, names)])
    what = "" if len(drawn) == len(points) else f"{len(drawn):,} of "
    return (
        figure.update_xaxes(title_text=axis_title(laid_out.explained, 0))
        .update_yaxes(title_text=axis_title(laid_out.explained, 1))
        .update_layout(
            title_text=f"{what}{len(points):,} prompts by the modules that are active on them",
            legend={"title": {"text": "category" if "category" in points else "module"}},
            width=900,
            height=640,
        )
    )


def _groups(points: pd.DataFrame, names: list[str]) -> list[Any]:
    """Return one trace per category, or per module if there are no categories."""
    if "category" in points:
        texts = [label_text(value) or "none" for value in points["category"]]
        groups = pd.Series(texts, index=points.index, dtype=object)
        labels = sorted(groups.unique())
        shown = dict(zip(labels, map(plotly_text, labels), strict=True))
    else:
        groups = points["strongest"]
        shown = {number: names[number] for number in sorted(groups.unique())}
    return [
        graph_objects().Scatter(
            x=group["x"].to_numpy(dtype=np.float32),
            y=group["y"].to_numpy(dtype=np.float32),
            mode="markers",
            name=shown[label],
            marker={"color": colour, "symbol": symbol, "size": 6},
            text=_hover(group, names),
            hovertemplate="%{text}<extra></extra>",
        )
        for (label, group), (colour, symbol) in zip(
            ((label, points.loc[groups == label]) for label in shown),
            (_STYLES[number % len(_STYLES)] for number in range(len(shown))),
            strict=True,
        )
    ]


def _hover(points: pd.DataFrame, names: list[str]) -> list[str]:
    """Return the hover text of each point."""
    strongest = [f"most active: {names[number]}" for number in points["strongest"]]
    if "prompt" not in points:
        return strongest
    return [
        f"{wrapped(str(prompt))}<br>{line}"
        for prompt, line in zip(points["prompt"], strongest, strict=True)
    ]


def _numbers(points: pd.DataFrame, names: list[str]) -> Any:
    """Mark each module at the median of the prompts on which it is the most active module."""
    middles = points.groupby("strongest")[["x", "y"]].median()
    numbers = middles.index.tolist()
    numbered = len(names) <= N_NUMBERED
    return graph_objects().Scatter(
        x=middles["x"].to_numpy(),
        y=middles["y"].to_numpy(),
        mode="text+markers" if numbered else "markers",
        marker={
            "color": "#f7f7f7",
            "size": 20 if numbered else 8,
            "line": {"color": "#000000", "width": 1},
        },
        text=[str(number) for number in numbers],
        textfont={"color": "#111111", "size": 12},
        customdata=[names[number] for number in numbers],
        hovertemplate="module %{customdata}<extra></extra>",
        name="modules",
    )


def axis_title(explained: tuple[float, float] | None, number: int) -> str:
    """Return the title of an axis, with its share of the variance if PCA made it."""
    if explained is None:
        return f"t-SNE {number + 1} (no unit)"
    return f"principal component {number + 1} ({explained[number]:.0%} of the variance)"
