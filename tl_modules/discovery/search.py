"""The search for the best partition: several starts, then kicks."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Literal, get_args

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool
from tqdm.auto import tqdm

from tl_modules.activations.matrix import ActivationMatrix
from tl_modules.activations.normalise import Normaliser
from tl_modules.activations.store import ActivationStore
from tl_modules.discovery.descent import IterDResult, descend
from tl_modules.discovery.local_search import improve
from tl_modules.discovery.on_device import placed
from tl_modules.discovery.partition import module_set_of
from tl_modules.discovery.products import InMemory, Products
from tl_modules.discovery.shared_aside import without_columns
from tl_modules.discovery.start import START_KINDS, StartKind, start_labels, start_points
from tl_modules.discovery.topics_first import topics_first
from tl_modules.modules.module_set import ModuleSet
from tl_modules.runtime.determinism import one_thread

Method = Literal["topics_first", "ulcmod"]
"""``topics_first`` clusters the samples, and then gives each unit its strongest topic; ``ulcmod``
is the paper's objective with IterD."""
METHODS: tuple[Method, ...] = get_args(Method)

MAX_ROUNDS = 100
"""Rounds of IterD after which a start stops; most starts converge in about ten."""


@dataclass(frozen=True)
class SearchOptions:
    """The options of a search; ``discover`` describes them."""

    method: Method
    n_modules: int
    seed: int
    max_rounds: int
    n_starts: int
    n_kicks: int
    n_jobs: int
    progress: bool
    device: torch.device | None = None
    """Where sums are computed; None for the CPU's compiled loops."""


def search(
    acts: ActivationMatrix | ActivationStore,
    normaliser: Normaliser | None,
    products: Products,
    options: SearchOptions,
    kept: Bool[np.ndarray, " units"] | None = None,
) -> ModuleSet:
    """Search by the method of the options, and build the modules.

    Args:
        acts: The activations.
        normaliser: What normalised them.
        products: The normalised activations.
        options: The options.
        kept: The units to partition; None for all. See ``kept_units``.

    Returns:
        The modules; those of ``ulcmod`` have a table of the starts.
    """
    if kept is not None:
        products = without_columns(products, kept)
    if options.device is not None:
        assert isinstance(products, InMemory)  # discover refuses a store with a device
        products = placed(products, options.n_modules, options.device)
    if options.method == "topics_first":
        best = topics_first(products, options.n_modules, options.seed, progress=options.progress)
        starts = None
    else:
        best, starts = _ulcmod(products, options)
    modules = module_set_of(
        acts,
        normaliser,
        products,
        best,
        options.n_modules,
        seed=options.seed,
        method=options.method,
        kept=kept,
    )
    return replace(modules, starts=starts)


def _ulcmod(products: Products, options: SearchOptions) -> tuple[IterDResult, pd.DataFrame]:
    """Run IterD from several starts, and improve the best partition by kicks.

    Returns:
        The best partition, and a table of the starts.
    """
    results = _from_starts(products, options)
    # L with an empty module is 0; the history, which leaves empty blocks out, then decides.
    best = max(results, key=lambda result: (result.objective.L, result.history[-1]))
    starts = pd.DataFrame(
        {
            "kind": [_start_kind(start) for start in range(options.n_starts)],
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
    return best, starts


def _start_kind(start: int) -> StartKind:
    """The kind of start number ``start``; the kinds take turns."""
    return START_KINDS[start % len(START_KINDS)]


def _from_starts(products: Products, options: SearchOptions) -> list[IterDResult]:
    """Run IterD from each start, several at a time."""
    # BLAS adds up in an order that depends on its threads; with one thread results are equal on
    # machines of any number of cores. The limit holds for the whole process, so it is set here
    # rather than inside the pool's threads.
    with one_thread():
        return _run_starts(products, options)


def _run_starts(products: Products, options: SearchOptions) -> list[IterDResult]:
    n_starts, n_jobs = options.n_starts, options.n_jobs
    if isinstance(products, InMemory) and n_jobs > 1:
        # numba's own threads cannot be nested in ours: each search uses one thread.
        products = InMemory(products.matrix, parallel=False)
    else:
        n_jobs = 1
    given = start_points(products, options.seed, parallel=n_jobs == 1)

    with (
        tqdm(total=n_starts, desc="discover", unit="start", disable=not options.progress) as bar,
        ThreadPoolExecutor(n_jobs) as pool,
    ):

        def show_round(number: int, value: float) -> None:
            bar.set_postfix_str(f"round {number}, L = {value:,.0f}")

        def run(start: int) -> IterDResult:
            seed = options.seed + start
            labels = start_labels(given, _start_kind(start), options.n_modules, seed)
            return descend(
                products,
                options.n_modules,
                labels,
                max_rounds=options.max_rounds,
                seed=seed,
                on_round=show_round,
            )

        results = []
        for result in pool.map(run, range(n_starts)):
            results.append(result)
            bar.update()
        return results
