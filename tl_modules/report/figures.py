"""The figures of a report, each with how to read it."""

from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING

import numpy as np

from tl_modules.activations.matrix import ActivationMatrix
from tl_modules.activations.store import ActivationStore
from tl_modules.errors import ModulesError
from tl_modules.interpret.hierarchy import hierarchy
from tl_modules.modules import ModuleSet
from tl_modules.report.blocks import plot_activations
from tl_modules.report.dendrogram import plot_hierarchy
from tl_modules.report.heatmaps import plot_layers
from tl_modules.report.landscape import plot_landscape

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

_MAX_POINTS = 2000


@dataclass(frozen=True)
class ReportFigure:
    """One figure of the page."""

    name: str
    """Its anchor."""

    short: str
    """What links to it say."""

    title: str
    """Its heading."""

    caption: str
    """How to read it."""

    json: str
    """What plotly draws."""

    height: int
    """Pixels."""


def report_figures(
    modules: ModuleSet, acts: ActivationMatrix | ActivationStore | None, *, seed: int = 0
) -> list[ReportFigure]:
    """The figures that modules, and their activations if given, can fill; none without plotly.

    Raises:
        ModulesError: If the activations are of other samples or units.
    """
    if find_spec("plotly") is None:
        return []
    found = []
    if acts is not None:
        found.append(
            _figure(
                "activations",
                "Sorted matrix",
                "Samples down and units across, sorted by module. Blocks on the diagonal are what "
                "discovery raised; colour off it says that modules share drivers.",
                plot_activations(modules, acts, max_rows=200, max_columns=300),
            )
        )
    if len(set(modules.units.layers)) > 1:
        found.append(
            _figure(
                "layers",
                "Layers",
                "Red: more of a module's units lie in the layer than chance would put there; blue: "
                "fewer. A layer has many units, so that even small departures are no accident: "
                "read the ratio.",
                plot_layers(modules),
            )
        )
    if acts is None:
        return found
    if len(modules) > 2 and len(modules.samples) > 2 and _varied(modules):
        found.append(
            _figure(
                "hierarchy",
                "Tree of modules",
                "Modules that merge far to the left are active on the same samples.",
                plot_hierarchy(hierarchy(modules, acts, seed=seed)),
            )
        )
    if len(modules.samples) > 2:
        found.append(
            _figure(
                "landscape",
                "Prompts as points",
                "Each point is a prompt; near ones make the same modules active. Numbers are "
                "modules, at the middle of the prompts that make them most active. Two axes never "
                "show all: their shares are on them.",
                plot_landscape(modules, acts, max_points=_MAX_POINTS, seed=seed),
            )
        )
    return found


def _varied(modules: ModuleSet) -> bool:
    """Whether every module has units, without which there is no profile to compare."""
    return len(np.unique(modules.unit_labels[modules.unit_labels >= 0])) == len(modules)


def _figure(name: str, short: str, caption: str, figure: "Figure") -> ReportFigure:
    text = figure.to_json()
    if text is None:
        raise ModulesError(f"plotly gave no JSON of the figure {name!r}. Update plotly.")
    title = str(figure.layout.title.text)
    return ReportFigure(name, short, title, caption, text, int(figure.layout.height))
