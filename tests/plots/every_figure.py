"""Every public figure, with few data: what all figures have in common is tested on these."""

import numpy as np

import tl_modules as tlm
from tests.calls import (
    QUIET,
    compared_parts,
    cored,
    curved,
    erased,
    first_category,
    followed,
    steered,
)

plots = tlm.plots


def chosen(c):
    return tlm.choose_n_modules(c.acts, [2, 3], n_seeds=2, n_halves=1, **QUIET)


def concepts(c):
    return tlm.concept_effects(
        c.model, erased(c), first_category(c), c.prompts, c.prompts, n_controls=2, **QUIET
    )


def detectors(c):
    return tlm.compare_detectors(c.acts, first_category(c), n_resamples=2, test=c.acts, **QUIET)


def earlier(c):
    """A table without single controls, with a module of each verdict."""
    numbers = c.effects.drop(columns="selectivity_controls")
    return numbers.assign(shared_by_all=numbers["module"] == 0)


def strong(c):
    """Effects at every place of the scale of colours."""
    values = np.linspace(-1, 1, len(c.effects))
    return c.effects.assign(effect=values, control_mean=values[::-1] / 2, p_bh=0.01)


MADE = {
    "core_curve": lambda c: (plots.core_curve, cored(c).table),
    "faithfulness_curve": lambda c: (plots.faithfulness_curve, curved(c).table),
    "plot_activations": lambda c: (plots.plot_activations, c.modules, c.acts),
    "plot_along_text": lambda c: (
        plots.plot_along_text,
        tlm.token_values(c.model, c.modules, c.prompts, aggregate_over=4, **QUIET),
    ),
    "plot_categories": lambda c: (plots.plot_categories, tlm.probe_confusion(c.modules, *c.halves)),
    "plot_categories similarity": lambda c: (
        plots.plot_categories,
        tlm.category_similarity(c.modules, c.acts),
    ),
    "plot_components": lambda c: (plots.plot_components, compared_parts(c)),
    "plot_concepts": lambda c: (plots.plot_concepts, concepts(c)),
    "plot_costs": lambda c: (plots.plot_costs, c.effects),
    "plot_coverage": lambda c: (
        plots.plot_coverage,
        tlm.coverage(c.modules, c.acts, n_permutations=9),
    ),
    "plot_detectors": lambda c: (plots.plot_detectors, detectors(c)),
    "plot_effects": lambda c: (plots.plot_effects, strong(c)),
    "plot_hierarchy": lambda c: (
        plots.plot_hierarchy,
        tlm.hierarchy(c.modules, c.acts, n_permutations=9),
    ),
    "plot_landscape": lambda c: (plots.plot_landscape, c.modules, c.acts),
    "plot_layers": lambda c: (plots.plot_layers, c.modules),
    "plot_n_modules": lambda c: (plots.plot_n_modules, chosen(c)),
    "plot_selectivity": lambda c: (plots.plot_selectivity, c.effects),
    "plot_selectivity earlier": lambda c: (plots.plot_selectivity, earlier(c)),
    "plot_steering": lambda c: (plots.plot_steering, steered(c)),
    "plot_thoughts": lambda c: (plots.plot_thoughts, followed(c)),
}
"""Each figure's function and arguments, by the function's name."""


def drawn(name: str, made: tuple, **options):
    """One figure of what ``MADE`` gave."""
    function, *arguments = made
    assert function.__name__ == name.split()[0]
    return function(*arguments, **options)
