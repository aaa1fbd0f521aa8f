"""From activations to modules: ``discover``."""

import os
from collections import Counter
from functools import partial

import pandas as pd
import torch

from tl_modules.activations.matrix import ActivationMatrix
from tl_modules.activations.store import ActivationStore
from tl_modules.discovery.descent import check_n_modules
from tl_modules.discovery.normalised_input import normalised
from tl_modules.discovery.on_device import checked_device
from tl_modules.discovery.products import in_memory_bytes
from tl_modules.discovery.search import MAX_ROUNDS, Method, SearchOptions, search
from tl_modules.discovery.shared_aside import kept_units
from tl_modules.discovery.shared_search import search_together
from tl_modules.discovery.streamed import streamed_bytes
from tl_modules.errors import ModulesError, check_at_least, check_seed
from tl_modules.modules.module_set import ModuleSet
from tl_modules.runtime.arguments import checked
from tl_modules.runtime.call_warnings import warn_once
from tl_modules.runtime.memory import Size, budget, check_memory
from tl_modules.tables.labels import label_texts
from tl_modules.units import Units


@checked
def discover(  # noqa: PLR0913 - the options of one search, all by keyword
    acts: ActivationMatrix | ActivationStore,
    n_modules: int = 10,
    *,
    method: Method | None = None,
    seed: int = 0,
    max_rounds: int | None = None,
    n_starts: int | None = None,
    n_kicks: int | None = None,
    shared: Units | None = None,
    n_jobs: int | None = None,
    device: str | torch.device | None = None,
    distributed: bool = False,
    max_memory: Size | None = None,
    progress: bool = True,
) -> ModuleSet:
    """Find functional modules: groups of units, each paired with the samples that drive it.

    A raw matrix is first z-scored per unit. ``"topics_first"`` clusters the samples by k-means on
    their principal components; each unit joins the topic with its highest expected activation.
    Modules and topics may have any size. ``"ulcmod"`` moves units and samples by IterD until no
    move raises L (arXiv 2603.17823), which favours modules of equal size. Every unit and sample
    gets a module. The how-to "Choose K" explains empty modules, starts and kicks;
    ``module_effects`` shows whether modules matter to the model.

    Args:
        acts: The activations; an ``ActivationStore`` is streamed from disk.
        n_modules: K, from 2 to min(samples, units).
        method: ``"topics_first"`` or ``"ulcmod"``. By default ``"ulcmod"`` if one of the next three
            options is passed, which are options of IterD, and otherwise ``"topics_first"``.
        seed: The seed; start ``s`` of IterD is seeded with ``seed + s``.
        max_rounds: Stop each start after this many rounds (100).
        n_starts: Number of starts, of which the highest L is kept: balanced k-means, random
            labels, spectral clustering, in turn (1); see ``ModuleSet.starts``.
        n_kicks: Number of kicks, which change some labels and run IterD again (0).
        shared: Units to set aside as ``ModuleSet.shared``, such as ``shared_units(...).units``.
            They join no module.
        n_jobs: Starts at once, in threads; by default one per core. Results do not depend on it. A
            store's starts, and those on a device, run one by one.
        device: Where to compute sums, such as ``"cuda"``, for a matrix that fits its memory; by
            default the CPU's compiled loops. Sums differ by rounding in float64.
        distributed: Share a store's columns among ``torch.distributed`` processes. Each makes this
            call and gets the modules of a single process, bit for bit.
        max_memory: Limit beside the activations, in bytes or as ``"4 GB"``; by default free memory.
            If it is short, fewer starts run at once.
        progress: Show a progress bar.

    Returns:
        The modules.

    Raises:
        ModulesError: If K or an option is not valid, torch lacks the device, there are fewer than
            two samples, memory is too small, or the processes cannot share the work.

    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> planted = np.kron(np.eye(2), np.ones((10, 8))) + rng.normal(0, 0.1, (20, 16))
    >>> acts = ActivationMatrix.from_arrays(planted)
    >>> modules = discover(acts, n_modules=2, progress=False)
    >>> [module.n_units for module in modules]
    [8, 8]
    """
    method = _method(method, max_rounds=max_rounds, n_starts=n_starts, n_kicks=n_kicks)
    max_rounds = MAX_ROUNDS if max_rounds is None else max_rounds
    n_starts, n_kicks = 1 if n_starts is None else n_starts, n_kicks or 0
    check_at_least("n_starts", n_starts, 1)
    check_at_least("n_kicks", n_kicks, 0)
    check_at_least("max_rounds", max_rounds, 1)
    if n_jobs is not None:
        check_at_least("n_jobs", n_jobs, 1)
    check_seed(seed)
    check_seed(seed + n_starts - 1)
    if method == "ulcmod":
        _warn_unequal(acts.samples)
    n_modules, seed = int(n_modules), int(seed)
    on = _device(device, acts)
    kept = kept_units(acts, shared)
    if acts.shape[0] > 1:  # for a single sample, the normalisation's message is clearer
        n_units = acts.shape[1] if kept is None else int(kept.sum())
        check_n_modules(n_modules, (acts.shape[0], n_units))
    if distributed:
        if not isinstance(acts, ActivationStore):
            raise ModulesError(
                "distributed=True needs an ActivationStore, of which every process reads its own "
                "part. Write one with collect(..., store='acts')."
            )
        options = SearchOptions(method, n_modules, seed, max_rounds, n_starts, n_kicks, 1, progress)
        return search_together(
            acts, options, partial(_n_jobs, acts, n_modules, 1, max_memory, method=method)
        )
    n_jobs = min(n_starts, n_jobs or os.cpu_count() or 1)
    n_jobs = _n_jobs(
        acts, n_modules, n_jobs, max_memory, method=method, sets_aside=kept is not None
    )
    options = SearchOptions(
        method, n_modules, seed, max_rounds, n_starts, n_kicks, n_jobs, progress, on
    )
    return search(acts, *normalised(acts, n_modules), options, kept)


def _method(method: Method | None, **iterd: int | None) -> Method:
    """The method that the options mean; refuse options of IterD beside another method."""
    passed = {name: value for name, value in iterd.items() if value is not None}
    if method == "topics_first" and passed:
        raise ModulesError(
            f"{', '.join(iterd)} apply to method='ulcmod' only; got "
            f"{', '.join(f'{name}={value}' for name, value in passed.items())} with "
            "method='topics_first', whose k-means restarts by itself. Leave them out."
        )
    return method or ("ulcmod" if passed else "topics_first")


def _device(
    device: str | torch.device | None, acts: ActivationMatrix | ActivationStore
) -> torch.device | None:
    """The device of a search; refuse one that torch lacks, and any for a store."""
    if device is not None and isinstance(acts, ActivationStore):
        raise ModulesError(
            f"device={str(device)!r} needs an activation matrix; a store is streamed through the "
            "CPU. Load it if it fits into memory: discover(store.matrix(), device=...)."
        )
    return checked_device(device)


def _warn_unequal(samples: pd.DataFrame) -> None:
    """Warn if the categories' sizes differ so much that the paper's objective splits topics."""
    if "category" not in samples:
        return
    counts = Counter(label for label in label_texts(samples["category"]) if label is not None)
    if not counts:
        return
    (largest, most), (smallest, least) = counts.most_common()[0], counts.most_common()[-1]
    if most > 2 * least:
        warn_once(
            "unequal categories",
            f"Category {largest!r} has {most} prompts and {smallest!r} has {least}. "
            "method='ulcmod' favours modules of equal size, so it may split the large category "
            "and merge small ones. Pass method='topics_first', or prompts in equal numbers.",
        )


def _n_jobs(
    acts: ActivationMatrix | ActivationStore,
    n_modules: int,
    n_jobs: int,
    max_memory: Size | None,
    sharing: int = 1,
    *,
    method: Method,
    sets_aside: bool = False,
) -> int:
    """How many starts may run at once.

    Args:
        acts: The activations.
        n_modules: K.
        n_jobs: The largest number wanted.
        max_memory: The limit; see ``discover``.
        sharing: How many processes share this machine's memory.
        method: The method.
        sets_aside: Whether the search is over a copy without some units.

    Raises:
        ModulesError: If there is too little memory for one start.
    """
    if isinstance(acts, ActivationStore):
        n_bytes = streamed_bytes(acts.shape, n_modules, components=method == "topics_first")
        remedy = "Ask for fewer modules."
        check_memory("A search over a store", n_bytes, max_memory, remedy, sharing)
        return 1
    n_copies = (acts.normaliser is None) + sets_aside
    needed = partial(in_memory_bytes, acts.shape, n_modules, n_copies=n_copies)
    remedy = (
        "Write a store, which is streamed (collect(..., store='acts')), or ask for fewer modules."
    )
    check_memory("A search over a matrix in memory", needed(1), max_memory, remedy)
    limit = budget(max_memory)
    return max(jobs for jobs in range(1, n_jobs + 1) if jobs == 1 or needed(jobs) <= limit)
