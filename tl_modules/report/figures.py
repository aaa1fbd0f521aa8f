"""The figures of a report, each with how to read it."""

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
) -> tuple[list[ReportFigure], list[str]]:
    """The figures that modules, and their activations if given, can fill; none without plotly.

    Returns:
        The figures, and why others are missing.

    Raises:
        ModulesError: If the activations are of other samples or units.
    """
    if find_spec("plotly") is None:
        return [], ["Figures need plotly: pip install plotly."]
    missing = []
    if acts is None:
        missing.append("Other figures need the activations, which were not given.")
        wanted = [("layers", "Layers", _LAYERS, lambda: plot_layers(modules))]
    else:
        check_own_units(modules, acts)
        acts = own_activations(modules, acts)
        wanted = _of_activations(modules, acts, seed)
    found = []
    for name, short, caption, draw in wanted:
        try:
            found.append(_figure(name, short, caption, draw()))
        except ModulesError as error:  # these modules cannot fill it
            missing.append(f"{short}: {error}")
    return found, missing


_Wanted = list[tuple[str, str, str, Callable[[], "Figure"]]]

_ACTIVATIONS = (
    "Samples down and units across, sorted by module. Blocks on the diagonal are what discovery "
    "raised; colour off it says that modules share drivers."
)
_LAYERS = (
    "Red: more of a module's units lie in the layer than chance would put there; blue: fewer. In "
    "small modules many cells are within chance: the text at the pointer has the p-value."
)
_HIERARCHY = (
    "Modules that merge far to the left are active on the same samples. The cophenetic correlation "
    "says how much of a tree their distances are, p whether permuted profiles make as good a one."
)
_LANDSCAPE = (
    "Each point is a prompt; near ones make the same modules active. {markers} are modules, at the "
    "middle of the prompts that make them most active. Two axes rarely show all: their shares are "
    "on them."
)


def _of_activations(
    modules: ModuleSet, acts: ActivationMatrix | ActivationStore, seed: int
) -> _Wanted:
    """The figures of a page that has the activations."""
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


def _figure(name: str, short: str, caption: str, figure: "Figure") -> ReportFigure:
    text = figure.to_json()
    if text is None:
        raise ModulesError(f"plotly gave no JSON of the figure {name!r}. Update plotly.")
    title = str(figure.layout.title.text)
    return ReportFigure(name, short, title, caption, text, int(figure.layout.height))
