"""From activations to a ModuleSet."""

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pandas as pd
from jaxtyping import Float, Int
from tqdm.auto import tqdm

from tl_modules.activations.matrix import ActivationMatrix
from tl_modules.activations.store import ActivationStore
from tl_modules.discovery.iterd import IterDResult, check_n_modules, descend
from tl_modules.discovery.products import InMemory, Products, Streamed
from tl_modules.discovery.search import improve
from tl_modules.discovery.start import START_KINDS, principal_components, start_labels
from tl_modules.errors import check_at_least, check_seed
from tl_modules.modules import ModuleSet
from tl_modules.normalise import Normaliser


def discover(
    acts: ActivationMatrix | ActivationStore,
    n_modules: int = 10,
    *,
    seed: int = 0,
    max_rounds: int = 100,
    n_starts: int = 1,
    n_kicks: int = 0,
    n_jobs: int | None = None,
    progress: bool = True,
) -> ModuleSet:
    """Find functional modules: groups of units, each paired with the samples that drive it.

    Each unit is z-scored over the samples (unless ``acts`` is normalised already: see
    ``ActivationMatrix.normalise``), then IterD runs from a
    balanced k-means start until nothing moves; of several starts the one with the highest L is
    kept. Every unit and every sample gets a module: at the border the label is close to a coin
    flip, and another seed gives another partition. Where the data hold fewer groups than K, a
    module may end empty, and L, which counts every module, is then 0: ask for fewer.

    Args:
        acts: The activations. An ``ActivationStore`` is streamed: see there.
        n_modules: K, from 2 to min(samples, units).
        seed: Start ``s`` is seeded with ``seed + s``.
        max_rounds: Stop a start after so many rounds.
        n_starts: How many starts; they take turns among balanced k-means (the first), random
            labels and spectral clustering of the samples. ``ModuleSet.starts`` tells how far they
            spread.
        n_kicks: How often to kick the best one and let it converge again; a hundred kicks find a
            higher L than ten starts do in the same time (see ``benchmarks/search.py``).
        n_jobs: Starts that run at once, each in a thread of its own; by default as many as there
            are cores. The result does not depend on it. Balanced k-means holds Python's lock for
            most of its time, so that it is IterD that runs at once. A store's starts run one
            after the other.
        progress: Show a progress bar over the starts and the kicks.

    Returns:
        The modules. A partition is worth a causal test before it is believed: see
        ``module_effects``.

    Raises:
        ModulesError: If K is out of range or there are fewer than two samples.
    """
    check_at_least("n_starts", n_starts, 1)
    check_at_least("n_kicks", n_kicks, 0)
    check_at_least("max_rounds", max_rounds, 1)
    if n_jobs is not None:
        check_at_least("n_jobs", n_jobs, 1)
    check_seed(seed)
    check_seed(seed + n_starts - 1)
    scaler, products = normalised(acts, n_modules)
    results = _from_starts(products, n_modules, n_starts, n_jobs, max_rounds, seed, progress)
    best = max(results, key=lambda result: (result.objective.L, result.history[-1]))
    starts = pd.DataFrame(
        {
            "kind": [_kind(start) for start in range(n_starts)],
            "seed": range(seed, seed + n_starts),
            "L": [result.objective.L for result in results],
            "n_rounds": [len(result.history) for result in results],
            "converged": [result.converged for result in results],
        }
    )
    best = improve(
        products,
        n_modules,
        best,
        n_kicks=n_kicks,
        max_rounds=max_rounds,
        seed=seed,
        progress=progress,
    )
    found = as_module_set(acts, scaler, products, best, n_modules, seed=seed, method="iterd")
    return replace(found, starts=starts)


def _kind(start: int) -> str:
    """What start number ``start`` begins from."""
    return START_KINDS[start % len(START_KINDS)]


def _from_starts(
    products: Products,
    n_modules: int,
    n_starts: int,
    n_jobs: int | None,
    max_rounds: int,
    seed: int,
    progress: bool,
) -> list[IterDResult]:
    """IterD from each start, several at a time."""
    points = principal_components(products, seed)
    n_jobs = min(n_starts, os.cpu_count() or 1 if n_jobs is None else n_jobs)
    if isinstance(products, InMemory) and n_jobs > 1:
        products = InMemory(products.matrix, parallel=False)
    else:
        n_jobs = 1

    with (
        tqdm(total=n_starts, desc="discover", unit="start", disable=not progress) as bar,
        ThreadPoolExecutor(n_jobs) as pool,
    ):

        def tell(number: int, value: float) -> None:
            bar.set_postfix_str(f"round {number}, L = {value:,.0f}")

        def run(start: int) -> IterDResult:
            own = seed + start
            labels = start_labels(points, _kind(start), n_modules, own)
            return descend(
                products, n_modules, labels, max_rounds=max_rounds, seed=own, on_round=tell
            )

        results = []
        for result in pool.map(run, range(n_starts)):
            results.append(result)
            bar.update()
        return results


def normalised(
    acts: ActivationMatrix | ActivationStore, n_modules: int
) -> tuple[Normaliser | None, Products]:
    """What normalises the activations, and them normalised.

    Raises:
        ModulesError: If K is out of range or there are fewer than two samples.
    """
    if isinstance(acts, ActivationStore):
        check_n_modules(n_modules, acts.shape)
        scaler = acts.fit_zscore()
        return scaler, Streamed(acts, scaler)
    scored, products = scored_matrix(acts, n_modules)
    return scored.normaliser, products


def scored_matrix(acts: ActivationMatrix, n_modules: int) -> tuple[ActivationMatrix, InMemory]:
    """The activations z-scored (as they are, if normalised already), and the same for IterD.

    Raises:
        ModulesError: If K is out of range or there are fewer than two samples.
    """
    scored = acts if acts.normaliser is not None else acts.zscore()
    check_n_modules(n_modules, scored.values.shape)
    return scored, InMemory(scored.values)


def as_module_set(
    acts: ActivationMatrix | ActivationStore,
    normaliser: Normaliser | None,
    products: Products,
    result: IterDResult,
    n_modules: int,
    *,
    seed: int,
    method: str,
) -> ModuleSet:
    """A partition of normalised activations with all that a ``ModuleSet`` keeps.

    Args:
        acts: The activations that were partitioned.
        normaliser: What normalised them.
        products: Them, normalised.
        result: The partition.
        n_modules: K.
        seed: What it was seeded with.
        method: What made it.

    Returns:
        The set.
    """
    of_units = products.unit_sums(result.sample_labels, n_modules)
    return ModuleSet(
        units=acts.units,
        samples=acts.samples.copy(),
        unit_labels=result.unit_labels,
        sample_labels=result.sample_labels,
        n_modules=n_modules,
        objective=result.objective,
        sample_scores=topic_scores(products, result.sample_labels, result.unit_labels, n_modules),
        unit_scores=membership_scores(of_units, result.sample_labels, result.unit_labels),
        seed=seed,
        method=method,
        history=result.history,
        converged=result.converged,
        model_name=acts.model_name,
        reading=acts.reading,
        unit_means=acts.unit_means,
        normaliser=normaliser,
    )


def topic_scores(
    products: Products,
    sample_labels: Int[np.ndarray, " samples"],
    unit_labels: Int[np.ndarray, " units"],
    n_modules: int,
) -> Float[np.ndarray, " samples"]:
    """Each sample's mean over the units of its own module; 0 where that has none."""
    drive = products.sample_sums(unit_labels, n_modules)
    counts = np.bincount(unit_labels, minlength=n_modules)[sample_labels]
    return drive[np.arange(len(drive)), sample_labels] / np.maximum(counts, 1)


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
