"""Similarity between the modules of every two categories, by their activation profiles."""

import numpy as np
import pandas as pd

from tl_modules.activations.matrix import ActivationMatrix
from tl_modules.activations.store import ActivationStore
from tl_modules.errors import ModulesError
from tl_modules.evaluation.module_means import module_means, standardised
from tl_modules.modules.module_set import ModuleSet
from tl_modules.runtime.arguments import checked
from tl_modules.tables.text import text_column


@checked
def category_similarity(
    modules: ModuleSet, acts: ActivationMatrix | ActivationStore
) -> pd.DataFrame:
    """Tabulate how alike the modules of every two categories are, over the same prompts.

    A module belongs to its own category (``module.category``). Its profile is its normalised mean
    activation on each sample. The similarity of two categories is the mean Pearson correlation
    between a module of one and another module of the other. On prompts of the same categories as
    those of discovery, modules of different categories are mostly anti-correlated, because each is
    most active on its own: compare pairs with each other, not with 0. ``hierarchy`` compares single
    modules.

    Args:
        modules: The modules, with categories.
        acts: Activations of any prompts: raw, or normalised (used as they are).

    Returns:
        One row per ordered pair of the modules' categories, each with itself too, in alphabetical
        order: ``category``, ``other``, ``n_pairs`` (pairs of modules) and ``similarity`` (from -1
        to 1; NaN without a pair, as for a category with one module and itself). A module whose mean
        activation is constant, such as one without units, has the correlation 0 with all others.
        ``plots.plot_categories`` draws the table.

    Raises:
        ModulesError: If no module has a category, or the activations have other units or fewer than
            three samples.
    """
    own = [module.category for module in modules]
    names = sorted({category for category in own if category is not None})
    if not names:
        raise ModulesError(
            "modules should have categories; none has one. Discover them on prompts with a column "
            "'category', or use modules.with_categories."
        )
    if len(acts.samples) < 3:  # any correlation over two samples is 1 or -1
        raise ModulesError(
            f"acts should hold at least 3 samples for profiles to be correlated; got "
            f"{len(acts.samples)}. Collect more prompts."
        )
    profiles = standardised(module_means(modules, acts))
    correlations = profiles.T @ profiles
    # A module is not compared with itself.
    others = ~np.eye(len(modules), dtype=bool)
    of = {name: np.array([category == name for category in own]) for name in names}
    pairs = [(name, other) for name in names for other in names]
    found = [correlations[np.outer(of[name], of[other]) & others] for name, other in pairs]
    return pd.DataFrame(
        {
            "category": text_column(name for name, _ in pairs),
            "other": text_column(other for _, other in pairs),
            "n_pairs": [len(values) for values in found],
            "similarity": [float(values.mean()) if len(values) else np.nan for values in found],
        }
    )
