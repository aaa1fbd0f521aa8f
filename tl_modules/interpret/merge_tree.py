"""Which modules are alike: merges by what drives them, as a tree."""

from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from tl_modules.activations.matrix import ActivationMatrix
from tl_modules.activations.store import ActivationStore
from tl_modules.errors import ModulesError, check_at_least, check_seed
from tl_modules.evaluation.module_means import module_means
from tl_modules.interpret.own_samples import check_own_samples
from tl_modules.modules.module_set import BACKGROUND, ModuleSet
from tl_modules.modules.objective import Objective
from tl_modules.runtime.arguments import checked
from tl_modules.tables.against_controls import ROUNDING, control_p_value
from tl_modules.tables.html_tables import html_table

_Profiles = Float[np.ndarray, "samples modules"]


@dataclass(frozen=True, eq=False, repr=False)
class Hierarchy:
    """The order in which a set's modules merge, the most alike first."""

    modules: ModuleSet
    """What was merged."""

    linkage: Float[np.ndarray, "_merges 4"]
    """SciPy's linkage matrix, one row a merge: the two that merge (modules, then earlier merges),
    their mean distance (1 - Pearson correlation of profiles, 0 to 2), and how many modules."""

    cophenetic: float
    """Correlation of the distances with the heights at which modules merge (Sokal & Rohlf 1962):
    how much of a tree they are. NaN where all distances are equal, as of two modules."""

    null_cophenetic: Float[np.ndarray, " _permutations"]
    """The same with each profile's samples permuted by itself: any distances make some tree."""

    @property
    def p_value(self) -> float:
        """One-sided p-value of ``cophenetic`` against ``null_cophenetic``."""
        return control_p_value(self.cophenetic, self.null_cophenetic, ROUNDING)

    def cut(self, n: int) -> Int[np.ndarray, " _modules"]:
        """The tree cut into n branches.

        Args:
            n: How many, from 1 to the number of modules.

        Returns:
            Each module's branch, numbered from 0 in the order of their first modules.

        Raises:
            ModulesError: If n is out of range.
        """
        from scipy.cluster.hierarchy import cut_tree  # slow to import

        if not 1 <= n <= len(self.modules):
            raise ModulesError(f"n should lie between 1 and {len(self.modules)}; got {n}.")
        return cut_tree(self.linkage, n_clusters=n)[:, 0]

    def coarsen(self, n: int, acts: ActivationMatrix | ActivationStore) -> ModuleSet:
        """The n coarser modules that ``cut(n)`` makes, to ablate, say.

        Args:
            n: How many, from 2.
            acts: The activations that the modules were discovered on, raw or normalised.

        Returns:
            A module set with the method ``"merged"``; it has no unit scores.

        Raises:
            ModulesError: If n is out of range, or the activations are of other samples or units.
        """
        check_at_least("n", n, 2)
        check_own_samples(self.modules, acts)
        # The background's label, -1, picks what is appended.
        branches = np.append(self.cut(n), BACKGROUND)
        merged = replace(
            self.modules,
            unit_labels=branches[self.modules.unit_labels],
            sample_labels=branches[self.modules.sample_labels],
            n_modules=n,
            unit_scores=None,
            method="merged",
            history=(),
            converged=False,
            starts=None,
            topics=None,
            own_categories=None,
        )
        means = module_means(merged, acts).astype(np.float64)
        scores = means[np.arange(len(means)), merged.sample_labels]
        return replace(merged, sample_scores=scores, objective=_objective(merged, scores))

    def __repr__(self) -> str:
        """One line, not its arrays."""
        return (
            f"Hierarchy({len(self.modules)} modules, merging at {self.linkage[0, 2]:.2f} to "
            f"{self.linkage[-1, 2]:.2f}, cophenetic correlation {self.cophenetic:.2f}, "
            f"p {self.p_value:.3g})"
        )

    def _repr_html_(self) -> str:
        """For Jupyter: the merges, in order."""
        columns = {"one": int, "other": int, "distance": float, "n_modules": int}
        merges = pd.DataFrame(self.linkage, columns=list(columns)).astype(columns)
        return html_table(repr(self), merges)


@checked
def hierarchy(
    modules: ModuleSet,
    acts: ActivationMatrix | ActivationStore,
    *,
    n_permutations: int = 199,
    seed: int = 0,
) -> Hierarchy:
    """Merge modules by their profiles, two at a time: average linkage of 1 - correlation.

    A module's profile is its normalised mean activation on each sample. ``plot_hierarchy`` draws
    the tree.

    Args:
        modules: The modules.
        acts: Raw activations, or normalised ones (then taken as they are); of any prompts.
        n_permutations: Permutations of the profiles' samples, for the null.
        seed: Seeds them.

    Returns:
        The tree, and how far the distances are a tree's, beside the null.

    Raises:
        ModulesError: If the activations are of other units, of fewer than three samples, or a
            module's profile is constant.
    """
    check_at_least("n_permutations", n_permutations, 1)
    check_seed(seed)
    profiles = module_means(modules, acts).astype(np.float64)
    if len(profiles) < 3:
        raise ModulesError(
            f"acts should hold at least 3 samples for profiles to be correlated; got "
            f"{len(profiles)}. Collect more prompts."
        )
    constant = np.flatnonzero(np.ptp(profiles, axis=0) == 0)
    if len(constant):
        raise ModulesError(
            f"Each module's mean activation should vary over the samples; that of modules "
            f"{constant.tolist()} does not (has each module units?). Discover fewer modules."
        )
    linkage, cophenetic = _tree(profiles)
    generator = np.random.default_rng(seed)
    null = [_tree(generator.permuted(profiles, axis=0))[1] for _ in range(n_permutations)]
    return Hierarchy(modules, linkage, cophenetic, np.array(null))


def _tree(profiles: _Profiles) -> tuple[Float[np.ndarray, "merges 4"], float]:
    """The linkage matrix of some profiles, and its cophenetic correlation."""
    from scipy.cluster.hierarchy import cophenet, linkage  # slow to import
    from scipy.spatial.distance import pdist

    distances = pdist(profiles.T, metric="correlation")
    merges = linkage(distances, method="average")
    with np.errstate(invalid="ignore", divide="ignore"):  # equal distances: NaN
        return merges, float(cophenet(merges, distances)[0])


def _objective(modules: ModuleSet, sample_scores: Float[np.ndarray, " samples"]) -> Objective:
    """xi, B and L of a set, from its samples' scores."""
    n_units, n_samples = (
        np.bincount(labels[labels != BACKGROUND], minlength=len(modules)).astype(np.float64)
        for labels in (modules.unit_labels, modules.sample_labels)
    )
    blocks = n_units * n_samples
    xi = float(sample_scores @ n_units[modules.sample_labels] / blocks.sum())
    harmonic = float(len(blocks) / (1 / blocks).sum()) if blocks.all() else 0.0
    return Objective(xi=xi, B=harmonic, L=xi * harmonic)
