"""Comprehensiveness: which categories of prompts the modules cover, and which none does."""

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
    """What each category of prompts drives, and whether a module is mostly its own."""

    table: pd.DataFrame
    """One row a category and module: ``category``, ``module``, ``n_samples`` (of the category with
    the module's label), ``mean_activation`` (of the category's samples over the module's units,
    normalised), ``share_of_category`` (its samples that have the module's label) and
    ``share_of_module`` (the module's samples that are of the category; 0 for one without)."""

    categories: pd.DataFrame
    """One row a category: ``category``, ``n`` (samples), ``module`` (the one with the largest
    ``share_of_module``), that ``share_of_module``, ``covered`` (it is above ``least_share``),
    ``null_mean`` (the largest share with the categories permuted over the samples), ``p_value``
    (one-sided, against the same), ``p_holm`` and ``p_bh`` (adjusted over the categories)."""

    least_share: float
    """A category is covered if more than this share of some module's samples is of it."""

    @property
    def uncovered(self) -> list[str]:
        """The categories that no module covers."""
        return self.categories.loc[~self.categories["covered"], "category"].tolist()

    def __repr__(self) -> str:
        """One line, not its tables."""
        n_covered = len(self.categories) - len(self.uncovered)
        return (
            f"Coverage({n_covered} of {len(self.categories)} categories covered: more than "
            f"{self.least_share:.0%} of a module's samples; uncovered: {self.uncovered})"
        )

    def _repr_html_(self) -> str:
        """For Jupyter: the table of categories."""
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
    """Ask which categories have a module whose samples are mostly of them.

    With fewer modules than categories some category is left uncovered by the rule's arithmetic;
    and a category can drive a module that is mostly another's: ``table`` shows by how much.

    Args:
        modules: The modules.
        acts: The activations that they were discovered on, with ``category``; raw, or normalised.
        least_share: The rule: more than this share of a module's samples, from 0 to below 1.
        n_permutations: Permutations of the categories over the samples, for the null.
        seed: Seeds them.

    Returns:
        The tables, and the categories that are ``uncovered``.

    Raises:
        ModulesError: If the activations are of other samples or units, a category is missing, or
            an option is out of range.
    """
    if not 0 <= least_share < 1:
        raise ModulesError(f"least_share should lie at least at 0 and below 1; got {least_share}.")
    check_at_least("n_permutations", n_permutations, 1)
    check_seed(seed)
    check_own_samples(modules, acts)
    names, codes = np.unique(categories(acts, "acts"), return_inverse=True)
    means = module_means(modules, acts)
    labels = modules.sample_labels

    counts = _counts(codes, labels, len(names), len(modules))
    own = _shares_of_modules(counts)
    generator = np.random.default_rng(seed)
    null = np.empty((n_permutations, len(names)))
    for row in null:
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
            "share_of_module": own.ravel(),
        }
    )
    best = own.max(axis=1)
    p_values = np.array(
        [control_p_value(float(best[c]), null[:, c], ROUNDING) for c in range(len(names))]
    )
    each = pd.DataFrame(
        {
            "category": names,
            "n": sizes,
            "module": own.argmax(axis=1),
            "share_of_module": best,
            "covered": best > least_share,
            "null_mean": null.mean(axis=0),
            "p_value": p_values,
            "p_holm": holm(p_values),
            "p_bh": benjamini_hochberg(p_values),
        }
    )
    return Coverage(table, each, least_share)


def _counts(
    codes: Int[np.ndarray, " samples"],
    labels: Int[np.ndarray, " samples"],
    n_categories: int,
    n_modules: int,
) -> Int[np.ndarray, "categories modules"]:
    """How many samples each category and module share."""
    flat = np.bincount(codes * n_modules + labels, minlength=n_categories * n_modules)
    return flat.reshape(n_categories, n_modules)


def _shares_of_modules(
    counts: Int[np.ndarray, "categories modules"],
) -> Float[np.ndarray, "categories modules"]:
    """Each module's samples by category; 0 for a module without samples."""
    return counts / np.maximum(counts.sum(axis=0), 1)
