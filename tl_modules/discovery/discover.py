"""From an activation matrix to a ModuleSet."""

import numpy as np
from jaxtyping import Float, Int

from tl_modules.activations.matrix import ActivationMatrix
from tl_modules.discovery import _kernel
from tl_modules.discovery.iterd import IterDResult, checked_matrix, iterd
from tl_modules.discovery.search import improve
from tl_modules.errors import check_at_least, check_seed
from tl_modules.modules import ModuleSet


def discover(
    acts: ActivationMatrix,
    n_modules: int = 10,
    *,
    seed: int = 0,
    max_rounds: int = 100,
    n_starts: int = 1,
    n_kicks: int = 0,
    progress: bool = False,
) -> ModuleSet:
    """Find functional modules: groups of units, each paired with the samples that drive it.

    Each unit is z-scored over the samples (unless ``acts`` is already), then IterD runs from a
    balanced k-means start until nothing moves; of several starts the one with the highest L is
    kept. Every unit and every sample gets a module: at the border the label is close to a coin
    flip, and another seed gives another partition. Where the data hold fewer groups than K, a
    module may end empty, and L, which counts every module, is then 0: ask for fewer.

    Args:
        acts: The activations.
        n_modules: K, from 2 to min(samples, units).
        seed: Start ``s`` is seeded with ``seed + s``.
        max_rounds: Stop a start after so many rounds.
        n_starts: How many starts.
        n_kicks: How often to kick the best one and let it converge again; a hundred kicks find a
            higher L than ten starts do in the same time (see ``benchmarks/search.py``).
        progress: Show a progress bar over the kicks.

    Returns:
        The modules. A partition is worth a causal test before it is believed: see
        ``module_effects``.

    Raises:
        ModulesError: If K is out of range or there are fewer than two samples.
    """
    check_at_least("n_starts", n_starts, 1)
    check_at_least("n_kicks", n_kicks, 0)
    check_seed(seed)
    check_seed(seed + n_starts - 1)
    scored, matrix = scored_matrix(acts, n_modules)
    results = [
        iterd(matrix, n_modules, max_rounds=max_rounds, seed=seed + start)
        for start in range(n_starts)
    ]
    best = max(results, key=lambda result: (result.objective.L, result.history[-1]))
    best = improve(
        matrix,
        n_modules,
        best,
        n_kicks=n_kicks,
        max_rounds=max_rounds,
        seed=seed,
        progress=progress,
    )
    return as_module_set(scored, matrix, best, n_modules, seed=seed, method="iterd")


def scored_matrix(
    acts: ActivationMatrix, n_modules: int
) -> tuple[ActivationMatrix, Float[np.ndarray, "samples units"]]:
    """The activations z-scored (as they are, if they were), and their array ready for the kernels.

    Raises:
        ModulesError: If K is out of range or there are fewer than two samples.
    """
    scored = acts if acts.normaliser is not None else acts.zscore()
    return scored, checked_matrix(scored.values, n_modules)


def as_module_set(
    scored: ActivationMatrix,
    matrix: Float[np.ndarray, "samples units"],
    result: IterDResult,
    n_modules: int,
    *,
    seed: int,
    method: str,
) -> ModuleSet:
    """A partition of z-scored activations with all that a ``ModuleSet`` keeps.

    Args:
        scored: The activations that were partitioned.
        matrix: Their array.
        result: The partition.
        n_modules: K.
        seed: What it was seeded with.
        method: What made it.

    Returns:
        The set.
    """
    of_units = _kernel.unit_sums(matrix, result.sample_labels, n_modules)
    return ModuleSet(
        units=scored.units,
        samples=scored.samples.copy(),
        unit_labels=result.unit_labels,
        sample_labels=result.sample_labels,
        n_modules=n_modules,
        objective=result.objective,
        sample_scores=topic_scores(matrix, result.sample_labels, result.unit_labels, n_modules),
        unit_scores=membership_scores(of_units, result.sample_labels, result.unit_labels),
        seed=seed,
        method=method,
        history=result.history,
        converged=result.converged,
        model_name=scored.model_name,
        unit_means=scored.unit_means,
        unit_center=None if scored.normaliser is None else scored.normaliser.mean,
        unit_scale=None if scored.normaliser is None else scored.normaliser.std,
    )


def topic_scores(
    matrix: Float[np.ndarray, "samples units"],
    sample_labels: Int[np.ndarray, " samples"],
    unit_labels: Int[np.ndarray, " units"],
    n_modules: int,
) -> Float[np.ndarray, " samples"]:
    """Each sample's mean over the units of its own module; 0 where that has none."""
    drive = _kernel.sample_sums(matrix, unit_labels, n_modules)
    counts = np.bincount(unit_labels, minlength=n_modules)[sample_labels]
    return drive[np.arange(len(matrix)), sample_labels] / np.maximum(counts, 1)


def membership_scores(
    sums: Float[np.ndarray, "units modules"],
    sample_labels: Int[np.ndarray, " samples"],
    unit_labels: Int[np.ndarray, " units"],
) -> Float[np.ndarray, " units"]:
    """Each unit's mean on its own topic minus its best mean on another one.

    Args:
        sums: Each unit's activation summed over each topic's samples.
        sample_labels: The samples' topics.
        unit_labels: The units' modules.

    Returns:
        One score a unit, in the matrix's units; NaN where its own topic has no sample.
    """
    counts = np.bincount(sample_labels, minlength=sums.shape[1])
    means = np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)
    rows = np.arange(len(means))
    own = means[rows, unit_labels]
    means[rows, unit_labels] = np.nan
    others = np.where(np.isnan(means), -np.inf, means).max(axis=1)
    return own - np.where(np.isneginf(others), 0.0, others)
