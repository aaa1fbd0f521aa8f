"""Draw a hierarchy of modules as a tree."""

from typing import TYPE_CHECKING

from tl_modules.interpret.merge_tree import Hierarchy
from tl_modules.plots.style import (
    COLOURS,
    MARGINS,
    FigureTemplate,
    graph_objects,
    height_for,
    module_name,
    styled,
    ticks,
)
from tl_modules.runtime.arguments import checked

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

_BETWEEN_LEAVES = 10.0  # SciPy places the leaves at 5, 15, 25, ...


@checked
@styled
def plot_hierarchy(hierarchy: Hierarchy, *, template: FigureTemplate = None) -> "Figure":
    """Draw the tree of merges, to see which modules are alike: modules down, distance across.

    Args:
        hierarchy: The tree that ``hierarchy`` returned.
        template: The figure's style: a plotly template or its name, such as ``"simple_white"`` or
            ``"plotly_dark"``. By default dark text on white.

    Returns:
        A plotly figure.

    Raises:
        ModulesError: If plotly is not installed or lacks the template.
    """
    plotly = graph_objects()
    from scipy.cluster.hierarchy import dendrogram  # slow to import

    drawn = dendrogram(hierarchy.linkage, no_plot=True)
    names = [module_name(hierarchy.modules[leaf]) for leaf in drawn["leaves"]]
    positions = [_BETWEEN_LEAVES * (place + 0.5) for place in range(len(names))]
    # One trace for all merges, because a trace per merge is slow for many modules.
    across, down = [], []
    for heights, places in zip(drawn["dcoord"], drawn["icoord"], strict=True):
        across += [*heights, None]  # None ends the line
        down += [*places, None]
    tree = plotly.Scatter(
        x=across, y=down, mode="lines", line={"color": COLOURS[0]}, hoverinfo="x", showlegend=False
    )
    leaves = plotly.Scatter(
        x=[0.0] * len(names),
        y=positions,
        text=names,
        mode="markers",
        marker={"color": COLOURS[0], "size": 5},
        hovertemplate="%{text}<extra></extra>",
        showlegend=False,
    )
    height = height_for(len(names))
    figure = plotly.Figure([tree, leaves])
    figure.update_xaxes(
        title_text="distance (1 - Pearson correlation of profiles)",
        range=[0, 1.05 * hierarchy.linkage[-1, 2]],
    )
    figure.update_yaxes(
        title_text="module",
        range=[_BETWEEN_LEAVES * len(names), 0],
        **ticks(names, positions, _BETWEEN_LEAVES * len(names), height),
    )
    return figure.update_layout(
        title_text=(
            "Which modules are alike (cophenetic correlation "
            f"{hierarchy.cophenetic:.2f}, p {hierarchy.p_value:.2g})"
        ),
        width=800,
        height=height + MARGINS,
    )
