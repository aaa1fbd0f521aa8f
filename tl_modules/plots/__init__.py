"""Draw results as plotly figures, one kind of figure per file.

Calling a plot function needs the extra `viz`; importing this package does not.
"""

from tl_modules.plots.along_text import plot_along_text
from tl_modules.plots.blocks import plot_activations
from tl_modules.plots.category_pairs import plot_categories
from tl_modules.plots.components import plot_components
from tl_modules.plots.concepts import plot_concepts
from tl_modules.plots.cores import core_curve
from tl_modules.plots.costs import plot_costs
from tl_modules.plots.dendrogram import plot_hierarchy
from tl_modules.plots.detectors import plot_detectors
from tl_modules.plots.effect_heatmaps import plot_effects
from tl_modules.plots.faithfulness import faithfulness_curve
from tl_modules.plots.heatmaps import plot_coverage, plot_layers
from tl_modules.plots.landscape import plot_landscape
from tl_modules.plots.n_modules import plot_n_modules
from tl_modules.plots.selectivity_points import plot_selectivity
from tl_modules.plots.steering import plot_steering
from tl_modules.plots.thoughts import plot_thoughts
from tl_modules.plots.tokens import plot_tokens

__all__ = [
    "core_curve",
    "faithfulness_curve",
    "plot_activations",
    "plot_along_text",
    "plot_categories",
    "plot_components",
    "plot_concepts",
    "plot_costs",
    "plot_coverage",
    "plot_detectors",
    "plot_effects",
    "plot_hierarchy",
    "plot_landscape",
    "plot_layers",
    "plot_n_modules",
    "plot_selectivity",
    "plot_steering",
    "plot_thoughts",
    "plot_tokens",
]


def __dir__() -> list[str]:
    return __all__
