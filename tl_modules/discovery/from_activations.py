"""From activations to a ModuleSet."""

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float, Int
from tqdm.auto import tqdm

from tl_modules.activations.matrix import ActivationMatrix
from tl_modules.activations.normalise import Normaliser
from tl_modules.activations.store import ActivationStore
from tl_modules.discovery.descent import IterDResult, check_n_modules, descend
from tl_modules.discovery.local_search import improve
from tl_modules.discovery.products import InMemory, Products, in_memory_bytes
from tl_modules.discovery.start import START_KINDS, StartKind, principal_components, start_labels
from tl_modules.discovery.streamed import Streamed, streamed_bytes
from tl_modules.errors import ModulesError, check_at_least, check_seed
from tl_modules.modules.module_set import ModuleSet
from tl_modules.runtime.arguments import checked
from tl_modules.runtime.determinism import one_thread
from tl_modules.runtime.memory import Size, budget, check_memory
from tl_modules.runtime.processes import together
from tl_modules.tables.columns import warn_renamed


@dataclass(frozen=True)
class _Options:
    """How to search; see ``discover``."""

    n_modules: int
    seed: int
    max_rounds: int
    n_starts: int
    n_kicks: int
    n_jobs: int
    progress: bool


@checked
def discover(  # noqa: PLR0913 - the options of one search, all by keyword
    acts: ActivationMatrix | ActivationStore,
    n_modules: int = 10,
    *,
    seed: int = 0,
    max_rounds: int = 100,
    n_starts: int = 1,
    n_kicks: int = 0,
    n_jobs: int | None = None,
    distributed: bool = False,
    max_memory: Size | None = None,
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
        distributed: Share a store's columns among the processes of ``torch.distributed``, which all
            make this call and get the modules that one process would, to the last bit: each does
            its part of the sums and of the principal components, rank 0 the rest. 2, 4, 8 or 16
            processes take part; of another number, the next below.
        max_memory: What the search may take beside the activations themselves, in bytes or as a
            text such as ``"4 GB"``; by default what the machine has free. Fewer starts run at once,
            if that helps.
        progress: Show a progress bar over the starts and the kicks.

    Returns:
        The modules. A partition is worth a causal test before it is believed: see
        ``module_effects``.

    Raises:
        ModulesError: If K is out of range, there are fewer than two samples, the search would take
            more memory than it may, or the processes cannot share the work.
    """
    check_at_least("n_starts", n_starts, 1)
    check_at_least("n_kicks", n_kicks, 0)
    check_at_least("max_rounds", max_rounds, 1)
    if n_jobs is not None:
        check_at_least("n_jobs", n_jobs, 1)
    check_seed(seed)
    check_seed(seed + n_starts - 1)
    n_modules, seed = int(n_modules), int(seed)
    if acts.shape[0] > 1:  # of one, its normalisation says more
        check_n_modules(n_modules, acts.shape)
    options = _Options(n_modules, seed, max_rounds, n_starts, n_kicks, n_jobs or 1, progress)
    if distributed:
        return _shared(acts, options, max_memory)
    n_jobs = _n_jobs(acts, n_modules, min(n_starts, n_jobs or os.cpu_count() or 1), max_memory)
    return _found(acts, *normalised(acts, n_modules), replace(options, n_jobs=n_jobs))


def _n_jobs(
    acts: ActivationMatrix | ActivationStore,
    n_modules: int,
    n_jobs: int,
    max_memory: Size | None,
    sharing: int = 1,
) -> int:
    """How many starts may run at once.

    Raises:
        ModulesError: If there is no room for one.
    """
    if isinstance(acts, ActivationStore):
        n_bytes = streamed_bytes(acts.shape, n_modules)
        remedy = "Ask for fewer modules."
        check_memory("A search over a store", n_bytes, max_memory, remedy, sharing)
        return 1
    needed = partial(in_memory_bytes, acts.shape, n_modules, is_copied=acts.normaliser is None)
    remedy = (
        "Write a store, which is streamed (collect(..., store='acts')), or ask for fewer modules."
    )
    check_memory("A search over a matrix in memory", needed(1), max_memory, remedy)
    most = budget(max_memory)
    return max(jobs for jobs in range(1, n_jobs + 1) if jobs == 1 or needed(jobs) <= most)


def _shared(
    acts: ActivationMatrix | ActivationStore, options: _Options, max_memory: Size | None
) -> ModuleSet:
    """Rank 0 finds the modules with the others' help; every rank gets them."""
    if not isinstance(acts, ActivationStore):
        raise ModulesError(
            "distributed=True needs an ActivationStore, which every process reads its part of. "
            "Write one with collect(..., store='acts')."
        )
    with together(True) as ranks:
        asked = replace(options, n_jobs=1, progress=False)  # these may differ
        ranks.check_same({"the stores": str(acts.chunks), "the options": str(asked)})
        ranks.told(lambda: _n_jobs(acts, options.n_modules, 1, max_memory, ranks.on_machine))
        scaler = acts.fit_zscore(ranks)
        products = Streamed(acts, scaler, ranks)
        found: dict[str, Any] = {}

        def find() -> dict[str, Any]:
            """The set's JSON part, and the names of its arrays."""
            try:
                header, found["arrays"] = _found(acts, scaler, products, options).parts()
            except ModulesError:
                if not products.in_step:
                    products.stop()
                raise
            products.stop()
            return {"header": header, "arrays": list(found["arrays"])}

        if not ranks.is_first:
            products.serve()
        described = ranks.told(find, unless=lambda: products.in_step)
        arrays = found.get("arrays", {})
        arrays = {name: ranks.spread(arrays.get(name)) for name in described["arrays"]}
    return ModuleSet.from_parts(described["header"], arrays)


def _found(
    acts: ActivationMatrix | ActivationStore,
    scaler: Normaliser | None,
    products: Products,
    options: _Options,
) -> ModuleSet:
    """The modules of normalised activations."""
    results = _from_starts(products, options)
    best = max(results, key=lambda result: (result.objective.L, result.history[-1]))
    starts = pd.DataFrame(
        {
            "kind": [_kind(start) for start in range(options.n_starts)],
            "seed": range(options.seed, options.seed + options.n_starts),
            "L": [result.objective.L for result in results],
            "n_rounds": [len(result.history) for result in results],
            "converged": [result.converged for result in results],
        }
    )
    best = improve(
        products,
        options.n_modules,
        best,
        n_kicks=options.n_kicks,
        max_rounds=options.max_rounds,
        seed=options.seed,
        progress=options.progress,
    )
    found = as_module_set(
        acts, scaler, products, best, options.n_modules, seed=options.seed, method="iterd"
    )
    return replace(found, starts=starts)


def _kind(start: int) -> StartKind:
    """What start number ``start`` begins from."""
    return START_KINDS[start % len(START_KINDS)]


def _from_starts(products: Products, options: _Options) -> list[IterDResult]:
    """IterD from each start, several at a time."""
    with one_thread():
        return _in_turns(products, options)


def _in_turns(products: Products, options: _Options) -> list[IterDResult]:
    points = principal_components(products, options.seed)
    n_starts, n_jobs = options.n_starts, options.n_jobs
    if isinstance(products, InMemory) and n_jobs > 1:
        products = InMemory(products.matrix, parallel=False)
    else:
        n_jobs = 1

    with (
        tqdm(total=n_starts, desc="discover", unit="start", disable=not options.progress) as bar,
        ThreadPoolExecutor(n_jobs) as pool,
    ):

        def tell(number: int, value: float) -> None:
            bar.set_postfix_str(f"round {number}, L = {value:,.0f}")

        def run(start: int) -> IterDResult:
            own = options.seed + start
            labels = start_labels(points, _kind(start), options.n_modules, own)
            return descend(
                products,
                options.n_modules,
                labels,
                max_rounds=options.max_rounds,
                seed=own,
                on_round=tell,
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
    found = ModuleSet(
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
    warn_renamed({"score": found.score_column})
    return found


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
