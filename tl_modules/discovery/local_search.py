"""Iterated local search: kicks out of a local optimum of L."""

import numpy as np
from tqdm.auto import tqdm

from tl_modules.discovery.descent import IterDResult, descend
from tl_modules.discovery.products import Products

KICKED = 0.15
"""Share of the samples that get random labels in a kick."""


def improve(
    products: Products,
    n_modules: int,
    start: IterDResult,
    *,
    n_kicks: int,
    max_rounds: int = 100,
    seed: int = 0,
    progress: bool = False,
) -> IterDResult:
    """Look for a partition with a higher L near a converged one.

    Each trial gives 15 % of the samples random labels, lets the units follow the samples, and runs
    IterD to convergence. The result is kept if its L is higher (iterated local search, Lourenço,
    Martin & Stützle 2003). A trial needs no k-means start and few rounds, so many trials fit in
    the time of one restart; ``benchmarks/search.py`` compares both at equal time.

    Args:
        products: The normalised matrix.
        n_modules: K.
        start: The converged partition.
        n_kicks: Number of trials.
        max_rounds: Largest number of rounds per trial.
        seed: Seed of the kicks and of the trials' orders.
        progress: Show a progress bar.

    Returns:
        The best partition found. Its L is never below that of ``start``.
    """
    generator = np.random.default_rng(seed)
    best = start
    for _ in tqdm(range(n_kicks), desc="kicks", disable=not progress or not n_kicks):
        labels = best.sample_labels.copy()
        kicked = generator.random(len(labels)) < KICKED
        labels[kicked] = generator.integers(n_modules, size=int(kicked.sum()))
        trial = descend(
            products,
            n_modules,
            labels,
            max_rounds=max_rounds,
            seed=int(generator.integers(2**31)),
        )
        if trial.objective.L > best.objective.L:
            best = trial
    return best
