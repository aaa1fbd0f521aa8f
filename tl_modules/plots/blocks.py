"""Draw the activations sorted by module, to see whether there are blocks on the diagonal."""

from typing import TYPE_CHECKING, Any

import numpy as np

from tl_modules.activations.matrix import ActivationMatrix
from tl_modules.activations.store import ActivationStore
from tl_modules.interpret.blocks import Bins, sort_blocks
from tl_modules.modules.labels import BACKGROUND
from tl_modules.modules.module_set import ModuleSet
from tl_modules.plots.style import (
    DIVERGING,
    FigureTemplate,
    graph_objects,
    module_name,
    styled,
    ticks,
)
from tl_modules.runtime.arguments import checked

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

_SIDE = 560  # pixels
_CLIPPED = 0.99  # quantile of |value| at which colours end: a few outliers would pale all others
_NOUNS = {"zscore": "z-score", "rank": "rank (mean 0, variance 1)", "none": "activation"}


@checked
@styled
def plot_activations(
    modules: ModuleSet,
    acts: ActivationMatrix | ActivationStore,
    *,
    max_rows: int = 250,
    max_columns: int = 500,
    template: FigureTemplate = None,
) -> "Figure":
    """Draw the normalised activations sorted by module, to see the blocks that discovery found.

    Samples and units are sorted by module, strongest first. Each cell is the mean over consecutive
    samples and units of one module, and areas are proportional to the numbers of samples and units.
    Frames mark the modules' blocks. Discovery gives each unit the block where it is most active, so
    blocks stand out by construction; ``stability`` measures how well the modules hold on other
    prompts. Colours end at the 99th percentile.

    Args:
        modules: The modules.
        acts: The activations that the modules were discovered on, raw or normalised.
        max_rows: The largest number of cells down; each small module may add one.
        max_columns: The largest number of cells across; each small module may add one.
        template: The figure's style: a plotly template or its name, such as ``"simple_white"`` or
            ``"plotly_dark"``. By default dark text on white.

    Returns:
        A plotly figure, below 2 MB as HTML (without plotly's own script) for up to 250 modules.

    Raises:
        ModulesError: If plotly is not installed or lacks the template, the activations have other
            samples or units, or a size is below 1.
    """
    plotly = graph_objects()
    values, rows, columns = sort_blocks(modules, acts, max_rows=max_rows, max_columns=max_columns)
    names = {module.label: module_name(module) for module in modules} | {BACKGROUND: "background"}
    limit = float(np.quantile(np.abs(values), _CLIPPED)) or 1.0  # all values may be 0
    name = "zscore" if modules.normaliser is None else modules.normaliser.name
    labels = np.stack(np.broadcast_arrays(rows.labels[:, None], columns.labels), axis=-1)
    heatmap = plotly.Heatmap(
        z=values.astype(np.float32),  # halves the size of the page
        x=columns.edges,
        y=rows.edges,
        customdata=labels.astype(np.int16),
        zmin=-limit,
        zmax=limit,
        colorscale=DIVERGING,
        colorbar={"title": {"text": f"mean<br>{_NOUNS[name]}"}},
        hovertemplate=(
            "samples of module %{customdata[0]}<br>units of module %{customdata[1]}"
            f"{' (-1: background)' if BACKGROUND in columns.labels else ''}<br>"
            "mean %{z:.2f}<extra></extra>"
        ),
    )
    figure = plotly.Figure(heatmap)
    figure.update_xaxes(
        title_text=f"units, sorted by module ({len(modules.units):,})", **_ticks(columns, {}, _SIDE)
    )
    figure.update_yaxes(
        title_text=f"samples, sorted by module ({len(modules.samples):,})",
        autorange="reversed",
        **_ticks(rows, names, _SIDE),
    )
    return figure.update_layout(
        title_text="Activations sorted by module (frames: the modules' own blocks)",
        shapes=_frames(rows, columns),
        width=900,
        height=_SIDE + 180,
    )


def _spans(bins: Bins) -> dict[int, tuple[int, int]]:
    """Return the first and the last edge of each module's bins."""
    spans: dict[int, tuple[int, int]] = {}
    for label, start, end in zip(
        bins.labels.tolist(), bins.edges[:-1].tolist(), bins.edges[1:].tolist(), strict=True
    ):
        spans[label] = (spans[label][0] if label in spans else start, end)
    return spans


def _ticks(bins: Bins, names: dict[int, str], pixels: int) -> dict[str, Any]:
    """Label each module that has room for it in its middle, with a name or its number."""
    spans = _spans(bins)
    shown = [names.get(label, "-" if label == BACKGROUND else str(label)) for label in spans]
    middles = [(start + end) / 2 for start, end in spans.values()]
    return ticks(shown, middles, float(bins.edges[-1]), pixels)


def _frames(rows: Bins, columns: Bins) -> list[dict[str, Any]]:
    """Return a rectangle around each module's block."""
    down, across = _spans(rows), _spans(columns)
    return [
        {
            "type": "rect",
            **dict(zip(("x0", "x1", "y0", "y1"), (*across[label], *down[label]), strict=True)),
            "line": {"color": "#000000", "width": 1},
        }
        for label in down
        if label in across
    ]
