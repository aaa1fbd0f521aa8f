"""Draw the figures of what modules hold, each with a caption that says how to read it."""

from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING

from tl_modules.activations.matrix import ActivationMatrix
from tl_modules.activations.store import ActivationStore
from tl_modules.errors import ModulesError
from tl_modules.evaluation.module_means import check_own_units
from tl_modules.interpret.merge_tree import hierarchy
from tl_modules.interpret.own_samples import own_activations
from tl_modules.modules.module_set import ModuleSet
from tl_modules.plots.blocks import plot_activations
from tl_modules.plots.dendrogram import plot_hierarchy
from tl_modules.plots.heatmaps import plot_layers
from tl_modules.plots.landscape import N_NUMBERED, plot_landscape

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

_MAX_POINTS = 2000
_CLEAR = "rgba(0, 0, 0, 0)"


@dataclass(frozen=True)
class ReportFigure:
    """One figure of the page."""

    name: str
    """The figure's anchor on the page."""

    short: str
    """The text of links to the figure."""

    title: str
    """The figure's heading."""

    caption: str
    """How to read the figure."""

    json: str
    """The figure as plotly's JSON."""

    height: int
    """The figure's height in pixels."""


def report_figures(
    modules: ModuleSet, acts: ActivationMatrix | ActivationStore | None, *, seed: int = 0
) -> tuple[list[ReportFigure], list[str]]:
    """Draw the figures that the modules and, if given, their activations allow.

    Returns:
        The figures, and the reasons why others are missing. Without plotly there are no figures.

    Raises:
        ModulesError: If the activations have other samples or units.
    """
    if find_spec("plotly") is None:
        return [], ["Figures need plotly: pip install plotly."]
    missing = []
    if acts is None:
        missing.append("Other figures need the activations; none were passed.")
        wanted = [("layers", "Layers", _LAYERS, lambda: plot_layers(modules))]
    else:
        check_own_units(modules, acts)
        acts = own_activations(modules, acts)
        wanted = _of_activations(modules, acts, seed)
    figures = []
    for name, short, caption, draw in wanted:
        try:
            figures.append(as_figure(name, short, caption, draw()))
        except ModulesError as error:  # for example, too few samples: the page says so
            missing.append(f"{short}: {error}")
    return figures, missing


_Wanted = list[tuple[str, str, str, Callable[[], "Figure"]]]

_ACTIVATIONS = (
    "Prompts (samples) down and units across, sorted by module. Colour is activation; a z-score is "
    "in standard deviations from the unit's mean over all prompts. Discovery gives each unit the "
    "block where it is most active, so that the diagonal stands out. Colour off the diagonal shows "
    "modules that respond to the same prompts."
)
_LAYERS = (
    "Red: the layer holds more of the module's units than expected by chance; blue: fewer. In "
    "small modules many cells are within chance; pointing at a cell shows its p-value."
)
_HIERARCHY = (
    "Modules that merge far to the left are active on the same prompts. A module's profile is its "
    "mean activation on each prompt. The cophenetic correlation says how well a tree describes the "
    "profiles' distances, 1 at best; p is the share of trees of permuted profiles that fit as well."
)
_LANDSCAPE = (
    "Each point is a prompt; the same modules are active on near points. {markers} are modules, at "
    "the middle of the prompts on which they are the most active module. The axes' titles give "
    "their shares of the variance; two axes rarely hold all of it."
)


def _of_activations(
    modules: ModuleSet, acts: ActivationMatrix | ActivationStore, seed: int
) -> _Wanted:
    """List the figures of a page with activations, each with a function that draws it."""
    markers = "Numbers" if len(modules) <= N_NUMBERED else "White dots"
    return [
        (
            "activations",
            "Sorted matrix",
            _ACTIVATIONS,
            lambda: plot_activations(modules, acts, max_rows=200, max_columns=300),
        ),
        ("layers", "Layers", _LAYERS, lambda: plot_layers(modules)),
        (
            "hierarchy",
            "Tree of modules",
            _HIERARCHY,
            lambda: plot_hierarchy(hierarchy(modules, acts, seed=seed)),
        ),
        (
            "landscape",
            "Prompts as points",
            _LANDSCAPE.format(markers=markers),
            lambda: plot_landscape(modules, acts, max_points=_MAX_POINTS, seed=seed),
        ),
    ]


def as_figure(
    name: str, short: str, caption: str, figure: "Figure", title: str | None = None
) -> ReportFigure:
    """Prepare a figure for the page.

    Args:
        name: The figure's anchor on the page.
        short: The text of links to the figure.
        caption: How to read the figure.
        figure: The plotly figure.
        title: The figure's heading; by default its own title.

    Raises:
        ModulesError: If plotly cannot write the figure.
    """
    # The page has a light and a dark background, and gives the text its own colour.
    as_json = figure.update_layout(paper_bgcolor=_CLEAR, plot_bgcolor=_CLEAR).to_json()
    if as_json is None:
        raise ModulesError(f"plotly returned no JSON for the figure {name!r}. Update plotly.")
    heading = str(figure.layout.title.text) if title is None else title
    return ReportFigure(name, short, heading, caption, as_json, int(figure.layout.height))
