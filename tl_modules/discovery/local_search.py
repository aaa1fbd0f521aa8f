"""Iterated local search: kick a converged partition, let IterD converge again, keep the better."""

import numpy as np
from tqdm.auto import tqdm

from tl_modules.discovery.descent import IterDResult, descend
from tl_modules.discovery.products import Products

KICKED = 0.15
"""Share of the samples that a kick gives random labels."""


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
    """Look for a higher L near a converged partition.

    Each trial gives 15 % of the samples random labels, lets the units follow the samples, runs
    IterD to convergence and keeps the outcome if its L is higher (iterated local search, Lourenço,
    Martin & Stützle 2003). A trial needs no k-means start and few rounds, so many fit in the time
    of one restart; ``benchmarks/search.py`` compares both at equal time.

    Args:
        products: The normalised matrix.
        n_modules: K.
        start: Where to begin.
        n_kicks: How many trials.
        max_rounds: Rounds of each trial at most.
        seed: Seeds the kicks and the trials' orders.
        progress: Show a progress bar.

    Returns:
        The best partition found; never one with a lower L than the start's.
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
