"""Comprehensiveness: which categories of prompts some module covers, and which none covers."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from tl_modules.activations.matrix import ActivationMatrix
from tl_modules.activations.store import ActivationStore
from tl_modules.errors import ModulesError, check_at_least, check_seed
from tl_modules.evaluation.downstream import categories
from tl_modules.evaluation.module_means import module_means
from tl_modules.interpret.own_samples import check_own_samples
from tl_modules.modules.module_set import ModuleSet
from tl_modules.runtime.arguments import checked
from tl_modules.tables.against_controls import ROUNDING, control_p_value
from tl_modules.tables.html_tables import html_table
from tl_modules.tables.p_values import benjamini_hochberg, holm


@dataclass(frozen=True, eq=False, repr=False)
class Coverage:
    """Which modules each category of prompts drives, and whether any module is mostly about it."""

    table: pd.DataFrame
    """One row per category and module: ``category``, ``module``, ``n_samples`` (samples of the
    category that have the module's label), ``mean_activation`` (the normalised mean of the
    category's samples over the module's units), ``share_of_category`` (the share of the category's
    samples that have the module's label) and ``share_of_module`` (the share of the module's samples
    that belong to the category; 0 for a module without samples)."""

    categories: pd.DataFrame
    """One row per category: ``category``, ``n`` (samples), ``module`` (the module with the largest
    ``share_of_module``), ``share_of_module`` (that largest share), ``covered`` (whether the share
    is above ``least_share``), ``null_mean`` (the mean of the largest share when the categories are
    permuted over the samples), ``p_value`` (one-sided, against these permutations), ``p_holm`` and
    ``p_bh`` (adjusted over the categories)."""

    least_share: float
    """The rule: a category is covered if more than this share of a module's samples belongs to
    it."""

    @property
    def uncovered(self) -> list[str]:
        """The categories that no module covers."""
        return self.categories.loc[~self.categories["covered"], "category"].tolist()

    def __repr__(self) -> str:
        """Return one line, without the tables."""
        n_covered = len(self.categories) - len(self.uncovered)
        return (
            f"Coverage({n_covered} of {len(self.categories)} categories covered: more than "
            f"{self.least_share:.0%} of a module's samples; uncovered: {self.uncovered})"
        )

    def _repr_html_(self) -> str:
        """Show Jupyter the table of categories."""
        return html_table(repr(self), self.categories)


@checked
def coverage(
    modules: ModuleSet,
    acts: ActivationMatrix | ActivationStore,
    *,
    least_share: float = 0.5,
    n_permutations: int = 999,
    seed: int = 0,
) -> Coverage:
    """Find the categories that some module is mostly about, and those that no module covers.

    If there are fewer modules than categories, the rule leaves at least one category uncovered
    (with ``least_share`` from 0.5). An uncovered category can still drive a module that is mostly
    about another category: ``table`` shows how strongly.

    Args:
        modules: The modules.
        acts: The activations that the modules were discovered on, with a column ``category``; raw
            or normalised.
        least_share: A category is covered if more than this share of a module's samples belongs to
            it; from 0 to below 1.
        n_permutations: The number of permutations of the categories over the samples (the null).
        seed: Seeds the permutations.

    Returns:
        One table per category and module, one table per category, and ``uncovered``, the
        categories that no module covers.

    Raises:
        ModulesError: If the activations have other samples or units, if a sample has no category,
            or if an option is out of range.
    """
    if not 0 <= least_share < 1:
        raise ModulesError(
            f"least_share should be at least 0 and below 1; got {least_share}. 0.5 asks for a "
            "majority of a module's samples."
        )
    check_at_least("n_permutations", n_permutations, 1)
    check_seed(seed)
    check_own_samples(modules, acts)
    names, codes = np.unique(categories(acts, "acts"), return_inverse=True)
    means = module_means(modules, acts)
    labels = modules.sample_labels

    counts = _counts(codes, labels, len(names), len(modules))
    shares = _shares_of_modules(counts)
    generator = np.random.default_rng(seed)
    null = np.empty((n_permutations, len(names)))
    for row in null:
        # Permuting the categories keeps the sizes of categories and modules; the maximum over
        # modules makes the null as selective as the observed share.
        permuted = _counts(generator.permutation(codes), labels, len(names), len(modules))
        row[:] = _shares_of_modules(permuted).max(axis=1)

    sizes = counts.sum(axis=1)
    table = pd.DataFrame(
        {
            "category": np.repeat(names, len(modules)),
            "module": np.tile(np.arange(len(modules)), len(names)),
            "n_samples": counts.ravel(),
            "mean_activation": np.concatenate(
                [means[codes == code].mean(axis=0, dtype=float) for code in range(len(names))]
            ),
            "share_of_category": (counts / sizes[:, None]).ravel(),
            "share_of_module": shares.ravel(),
        }
    )
    best = shares.max(axis=1)
    p_values = np.array(
        [control_p_value(float(best[c]), null[:, c], ROUNDING) for c in range(len(names))]
    )
    per_category = pd.DataFrame(
        {
            "category": names,
            "n": sizes,
            "module": shares.argmax(axis=1),
            "share_of_module": best,
            "covered": best > least_share,
            "null_mean": null.mean(axis=0),
            "p_value": p_values,
            "p_holm": holm(p_values),
            "p_bh": benjamini_hochberg(p_values),
        }
    )
    return Coverage(table, per_category, least_share)


def _counts(
    codes: Int[np.ndarray, " samples"],
    labels: Int[np.ndarray, " samples"],
    n_categories: int,
    n_modules: int,
) -> Int[np.ndarray, "categories modules"]:
    """Count the samples that each category and module share."""
    flat = np.bincount(codes * n_modules + labels, minlength=n_categories * n_modules)
    return flat.reshape(n_categories, n_modules)


def _shares_of_modules(
    counts: Int[np.ndarray, "categories modules"],
) -> Float[np.ndarray, "categories modules"]:
    """Divide each module's samples among the categories; 0 for a module without samples."""
    return counts / np.maximum(counts.sum(axis=0), 1)
