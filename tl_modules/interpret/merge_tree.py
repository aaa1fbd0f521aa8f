"""Find out which modules are alike: merge them by their activation profiles, as a tree."""

from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from tl_modules.activations.matrix import ActivationMatrix
from tl_modules.activations.store import ActivationStore
from tl_modules.errors import ModulesError, check_at_least, check_seed
from tl_modules.evaluation.module_means import module_means
from tl_modules.interpret.own_samples import check_own_samples
from tl_modules.modules.labels import BACKGROUND
from tl_modules.modules.module_set import ModuleSet
from tl_modules.modules.objective import Objective
from tl_modules.runtime.arguments import checked
from tl_modules.tables.against_controls import ROUNDING, control_p_value
from tl_modules.tables.html_tables import html_table

_Profiles = Float[np.ndarray, "samples modules"]


@dataclass(frozen=True, eq=False, repr=False)
class Hierarchy:
    """The tree in which a set's modules merge, the most similar pair first."""

    modules: ModuleSet
    """The modules that were merged."""

    linkage: Float[np.ndarray, "_merges 4"]
    """SciPy's linkage matrix, one row per merge: the two nodes that merge (modules first, then
    earlier merges), their mean distance (1 - Pearson correlation of profiles, from 0 to 2), and the
    number of modules in the merged node."""

    cophenetic: float
    """The correlation of the distances with the heights at which modules merge (Sokal & Rohlf
    1962): how well a tree describes the distances. NaN if all distances are equal, as with two
    modules."""

    null_cophenetic: Float[np.ndarray, " _permutations"]
    """The cophenetic correlation when the samples of each profile are permuted independently. Any
    distances make some tree, so compare ``cophenetic`` with this null."""

    @property
    def p_value(self) -> float:
        """One-sided p-value of ``cophenetic`` against ``null_cophenetic``."""
        return control_p_value(self.cophenetic, self.null_cophenetic, ROUNDING)

    def cut(self, n: int) -> Int[np.ndarray, " _modules"]:
        """Cut the tree into n branches.

        Args:
            n: The number of branches, from 1 to the number of modules.

        Returns:
            The branch of each module, numbered from 0 in the order of the branches' first modules.

        Raises:
            ModulesError: If n is out of range.
        """
        from scipy.cluster.hierarchy import cut_tree  # slow to import

        if not 1 <= n <= len(self.modules):
            raise ModulesError(f"n should lie between 1 and {len(self.modules)}; got {n}.")
        return cut_tree(self.linkage, n_clusters=n)[:, 0]

    def coarsen(self, n: int, acts: ActivationMatrix | ActivationStore) -> ModuleSet:
        """Merge the modules of each branch of ``cut(n)``, to test coarser modules causally.

        Args:
            n: The number of coarser modules, at least 2.
            acts: The activations that the modules were discovered on, raw or normalised.

        Returns:
            A module set with the method ``"merged"`` and without unit scores.

        Raises:
            ModulesError: If n is out of range, or the activations have other samples or units.
        """
        check_at_least("n", n, 2)
        check_own_samples(self.modules, acts)
        # The background's label, -1, selects the last entry.
        branches = np.append(self.cut(n), BACKGROUND)
        merged = replace(
            self.modules,
            unit_labels=branches[self.modules.unit_labels],
            sample_labels=branches[self.modules.sample_labels],
            n_modules=n,
            unit_scores=None,
            unit_runners_up=None,
            method="merged",
            history=(),
            converged=False,
            starts=None,
            topics=None,
            own_categories=None,
            shared_by_all=None,
            verdicts=None,
            verdict_sentence=None,
            scored_labels=None,
        )
        means = module_means(merged, acts).astype(np.float64)
        scores = means[np.arange(len(means)), merged.sample_labels]
        return replace(merged, sample_scores=scores, objective=_objective(merged, scores))

    def __repr__(self) -> str:
        """Return one line, without the arrays."""
        return (
            f"Hierarchy({len(self.modules)} modules, merging at {self.linkage[0, 2]:.2f} to "
            f"{self.linkage[-1, 2]:.2f}, cophenetic correlation {self.cophenetic:.2f}, "
            f"p {self.p_value:.3g})"
        )

    def _repr_html_(self) -> str:
        """Show Jupyter the merges in order."""
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
    """Merge similar modules into a tree, to see which of them respond to the same prompts.

    A module's profile is its normalised mean activation on each sample. The distance of two modules
    is 1 - the Pearson correlation of their profiles, and linkage is average. ``plot_hierarchy``
    draws the tree.

    Args:
        modules: The modules.
        acts: Activations of any prompts: raw, or normalised (used as they are).
        n_permutations: The number of permutations of the profiles' samples (the null).
        seed: Seeds the permutations.

    Returns:
        The tree, and how well a tree describes the distances, beside the null.

    Raises:
        ModulesError: If the activations have other units or fewer than three samples, or a module's
            profile is constant.
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
    """Return the linkage matrix of profiles and its cophenetic correlation."""
    from scipy.cluster.hierarchy import cophenet, linkage  # slow to import
    from scipy.spatial.distance import pdist

    distances = pdist(profiles.T, metric="correlation")
    merges = linkage(distances, method="average")
    with np.errstate(invalid="ignore", divide="ignore"):  # equal distances: NaN
        return merges, float(cophenet(merges, distances)[0])


def _objective(modules: ModuleSet, sample_scores: Float[np.ndarray, " samples"]) -> Objective:
    """Compute xi, B and L of a module set from its samples' scores."""
    n_units, n_samples = (
        np.bincount(labels[labels != BACKGROUND], minlength=len(modules)).astype(np.float64)
        for labels in (modules.unit_labels, modules.sample_labels)
    )
    blocks = n_units * n_samples
    xi = float(sample_scores @ n_units[modules.sample_labels] / blocks.sum())
    harmonic = float(len(blocks) / (1 / blocks).sum()) if blocks.all() else 0.0
    return Objective(xi=xi, B=harmonic, L=xi * harmonic)
