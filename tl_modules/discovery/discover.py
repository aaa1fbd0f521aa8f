"""From an activation matrix to a ModuleSet."""

import numpy as np

from tl_modules.activations.matrix import ActivationMatrix
from tl_modules.discovery import _kernel
from tl_modules.discovery.iterd import checked_matrix, iterd
from tl_modules.errors import check_at_least
from tl_modules.modules import ModuleSet


def discover(
    acts: ActivationMatrix,
    n_modules: int = 10,
    *,
    seed: int = 0,
    max_rounds: int = 100,
    n_starts: int = 1,
) -> ModuleSet:
    """Find functional modules: groups of units, each paired with the samples that drive it.

    Each unit is z-scored over the samples (unless ``acts`` is already), then IterD runs from a
    balanced k-means start until nothing moves; of several starts the one with the highest L is
    kept. Every unit and every sample gets a module: at the border the label is close to a coin
    flip, and another seed gives another partition.

    Args:
        acts: The activations.
        n_modules: K, from 2 to min(samples, units).
        seed: Start ``s`` is seeded with ``seed + s``.
        max_rounds: Stop a start after so many rounds.
        n_starts: How many starts.

    Returns:
        The modules. A partition is worth a causal test before it is believed: see
        ``module_effects``.

    Raises:
        ModulesError: If K is out of range or there are fewer than two samples.
    """
    check_at_least("n_starts", n_starts, 1)
    scored = acts if acts.normaliser is not None else acts.zscore()
    matrix = checked_matrix(scored.values, n_modules)
    results = [
        iterd(matrix, n_modules, max_rounds=max_rounds, seed=seed + start)
        for start in range(n_starts)
    ]
    best = max(results, key=lambda result: result.objective.L)
    # Each sample's mean z over the units of its own module.
    drive = _kernel.sample_sums(matrix, best.unit_labels, n_modules)
    counts = np.bincount(best.unit_labels, minlength=n_modules)[best.sample_labels]
    scores = drive[np.arange(len(matrix)), best.sample_labels] / np.maximum(counts, 1)
    return ModuleSet(
        units=acts.units,
        samples=acts.samples,
        unit_labels=best.unit_labels,
        sample_labels=best.sample_labels,
        n_modules=n_modules,
        objective=best.objective,
        sample_scores=scores,
        seed=seed,
        history=best.history,
        converged=best.converged,
        model_name=acts.model_name,
        unit_means=acts.unit_means,
        unit_center=None if scored.normaliser is None else scored.normaliser.mean,
        unit_scale=None if scored.normaliser is None else scored.normaliser.std,
    )
