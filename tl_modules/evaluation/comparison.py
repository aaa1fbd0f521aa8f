"""Compare methods of discovery: objective, downstream test, agreement, truth, cost."""

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal

import numpy as np
import pandas as pd
import torch
from jaxtyping import Int
from tqdm.auto import tqdm

from tl_modules.activations.matrix import ActivationMatrix
from tl_modules.discovery.baselines import BASELINES, Baseline, discover_baseline
from tl_modules.discovery.from_activations import discover
from tl_modules.discovery.on_device import checked_device
from tl_modules.errors import ModulesError, check_at_least, check_seed
from tl_modules.evaluation.downstream import (
    CLASSIFIERS,
    Truth,
    categories,
    compared_categories,
    probe_labels,
)
from tl_modules.modules.module_set import ModuleSet
from tl_modules.runtime.arguments import checked
from tl_modules.runtime.call_warnings import warns_once
from tl_modules.runtime.peak_memory import PeakMemory

KICKS = 100
"""The number of kicks of the method ``"iterd_kicks"``."""

ComparedMethod = Literal["iterd", "iterd_kicks", "topics_first", Baseline]
ALL_METHODS: tuple[ComparedMethod, ...] = ("iterd", "iterd_kicks", "topics_first", *BASELINES)
COMPARED_METHODS: tuple[ComparedMethod, ...] = tuple(
    method for method in ALL_METHODS if method != "leiden"
)
"""IterD from one start, IterD with kicks afterwards, ``topics_first`` (see ``discover``), and the
baselines that need no extra package."""

NUMBERS = (
    "L",
    "xi",
    "B",
    *(f"{name}_{number}" for name in CLASSIFIERS for number in ("accuracy", "macro_f1")),
    "ari",
    "nmi",
    "halves_ari",
    "truth_ari",
    "seconds",
    "peak_mb",
)


@checked
@warns_once
def compare_methods(  # noqa: PLR0913 - the options of one comparison, all by keyword
    train: ActivationMatrix,
    test: ActivationMatrix,
    n_modules: Sequence[int] = (5, 10, 15, 20),
    *,
    methods: Sequence[ComparedMethod] = COMPARED_METHODS,
    truth: Int[np.ndarray, " _units"] | None = None,
    n_seeds: int = 3,
    seed: int = 0,
    device: str | torch.device | None = None,
    progress: bool = True,
    on_run: Callable[[pd.DataFrame], object] = lambda runs: None,
) -> pd.DataFrame:
    """Discover modules by several methods and measure each, to choose a method.

    The measures are those of the paper's experiments (arXiv 2603.17823).

    Args:
        train: Raw activations to discover on, with ``category``.
        test: Raw activations of held-out prompts, with ``category``.
        n_modules: The values of K.
        methods: ``"leiden"`` or some of ``COMPARED_METHODS``.
        truth: Each unit's true module, where it is known; -1 for a unit without one.
        n_seeds: The number of runs per method and K.
        seed: The seed of the first run; run ``s`` has ``seed + s``.
        device: Where ``iterd``, ``iterd_kicks`` and ``topics_first`` compute sums; see
            ``discover``. The baselines run on the CPU.
        progress: Show a progress bar.
        on_run: A function that is called after each run with the table so far, for example to save
            it.

    Returns:
        One row per run: ``method``, ``n_modules``, ``seed``; ``L``, ``xi``, ``B``; accuracy and
        macro-F1 of both classifiers (``svc_``, ``lr_``) on the held-out prompts; ``ari`` and
        ``nmi`` of the training samples' labels with their categories; ``halves_ari``, the adjusted
        Rand index of the units' labels between discoveries on random halves of the training
        samples (NaN if a half has fewer than K); ``truth_ari``, that of the units' labels with
        ``truth``, if given; and the discovery's
        ``seconds`` and ``peak_mb`` (increase of resident memory in 1e6 bytes, sampled every 5 ms,
        which may miss short peaks). ``tl_modules.evaluation.comparison.summarise`` averages over
        the seeds.

    Raises:
        ModulesError: If an option is not valid, torch lacks the device, a category is missing, or
            the units differ.
    """
    check_at_least("n_seeds", n_seeds, 1)
    check_seed(seed)
    check_seed(seed + n_seeds - 1)  # the last run's seed
    on = checked_device(device)
    labels = compared_categories(train, test)
    for name, acts in (("train", train), ("test", test)):
        if acts.normaliser is not None:
            raise ModulesError(
                f"{name} should be raw activations; these are {acts.normaliser.noun}. Pass the "
                "activations as collect() returned them."
            )
    # K modules need at least K samples and K units.
    most = min(train.values.shape)
    for k in n_modules:
        if not 2 <= k <= most:
            raise ModulesError(f"n_modules should lie between 2 and {most}; got {k}.")
    if not train.units.same_hooks(test.units):
        raise ModulesError(
            "train and test should have the same units; their hook points or widths differ. "
            "Collect both from one model and site."
        )
    owners = _checked_owners(truth, train)
    _warm_up(methods, train.values.dtype, on)
    runs: list[tuple[ComparedMethod, int, int]] = [
        (method, k, seed + number)
        for k in n_modules
        for method in methods
        for number in range(n_seeds)
    ]
    rows = []
    with tqdm(runs, desc="evaluate", unit="run", disable=not progress) as bar:
        for method, k, run_seed in bar:
            bar.set_postfix_str(f"{method}, K = {k}")
            modules, row = _measured(train, test, labels, method, k, run_seed, on)
            row["halves_ari"] = _halves_ari(train, method, k, run_seed, on)
            if owners is not None:
                row["truth_ari"] = _truth_ari(owners, modules)
            rows.append(row)
            on_run(_table(rows))
    return _table(rows)


def _table(rows: list[dict[str, object]]) -> pd.DataFrame:
    numbers = [name for name in NUMBERS if name in rows[0]]
    return pd.DataFrame(rows, columns=["method", "n_modules", "seed", *numbers])


def summarise(runs: pd.DataFrame) -> pd.DataFrame:
    """Average a comparison over the seeds.

    Args:
        runs: The table that ``compare_methods`` returned.

    Returns:
        One row per method and K, in the order of the runs. Each number has two columns, ``mean``
        and ``std`` (ddof 1; NaN for a single seed), on the second level.
    """
    numbers = [name for name in NUMBERS if name in runs]
    grouped = runs.groupby(["n_modules", "method"], sort=False)[numbers]
    return pd.DataFrame(grouped.agg(["mean", "std"]))


@checked
def split_by_category(
    acts: ActivationMatrix, *, test_share: float = 0.2, seed: int = 0
) -> tuple[ActivationMatrix, ActivationMatrix]:
    """Split the samples at random, so that the same share of every category is held out.

    Args:
        acts: Raw activations with ``category``.
        test_share: The share to hold out, between 0 and 1; at least one sample per category.
        seed: Seeds the draw.

    Returns:
        The training samples and the held-out samples, both in the order of ``acts``.

    Raises:
        ModulesError: If a sample has no category, a category has a single sample, or ``test_share``
            or ``seed`` is not valid.
    """
    if not 0 < test_share < 1:
        raise ModulesError(
            f"test_share should lie between 0 and 1; got {test_share}. 0.2 is usual."
        )
    check_seed(seed)
    generator = np.random.default_rng(seed)
    names = np.asarray(categories(acts, "acts"))
    held_out = np.zeros(len(names), dtype=bool)
    # Sorted, so that the draw depends on the categories' names and not on the samples' order.
    for name in sorted(set(names.tolist())):
        members = generator.permutation(np.flatnonzero(names == name))
        if len(members) < 2:
            raise ModulesError(
                f"Category {name!r} should have at least 2 samples to be split; it has 1. Add "
                "prompts, or leave the category out."
            )
        held_out[members[: min(max(1, round(test_share * len(members))), len(members) - 1)]] = True
    return acts.select(np.flatnonzero(~held_out)), acts.select(np.flatnonzero(held_out))


def _measured(
    train: ActivationMatrix,
    test: ActivationMatrix,
    truth: Truth,
    method: ComparedMethod,
    n_modules: int,
    seed: int,
    device: torch.device | None,
) -> tuple[ModuleSet, dict[str, object]]:
    """Run one method once; return its modules and its row."""
    # Slow to import, and only a comparison needs them.
    from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

    # Only the discovery is timed and measured; the scores below are the same for all methods.
    started = time.perf_counter()
    with PeakMemory() as peak:
        modules = _fitted(train, method, n_modules, seed, device)
    row: dict[str, object] = {
        "method": method,
        "n_modules": n_modules,
        "seed": seed,
        "seconds": time.perf_counter() - started,
        "peak_mb": peak.bytes / 1e6,
        **vars(modules.objective),
    }
    for classifier in CLASSIFIERS:
        probed = probe_labels(modules, train, test, truth, classifier)
        row[f"{classifier}_accuracy"] = probed.accuracy
        row[f"{classifier}_macro_f1"] = probed.macro_f1
    row["ari"] = float(adjusted_rand_score(truth[0], modules.sample_labels))
    row["nmi"] = float(normalized_mutual_info_score(truth[0], modules.sample_labels))
    return modules, row


def _halves_ari(
    train: ActivationMatrix,
    method: ComparedMethod,
    n_modules: int,
    seed: int,
    device: torch.device | None,
) -> float:
    """How well the units' labels of two random halves of the samples agree."""
    from sklearn.metrics import adjusted_rand_score

    order = np.random.default_rng(seed).permutation(len(train.samples))
    if n_modules > len(order) // 2:
        return float("nan")
    # Without categories: whether they are equal is a question to the whole set.
    halves = (
        ActivationMatrix.from_arrays(train.values[np.sort(order[half::2])]) for half in (0, 1)
    )
    one, other = (_fitted(half, method, n_modules, seed, device).unit_labels for half in halves)
    return float(adjusted_rand_score(one, other))


def _checked_owners(
    truth: Int[np.ndarray, " _units"] | None, train: ActivationMatrix
) -> Int[np.ndarray, " units"] | None:
    """Refuse true labels that do not fit the units."""
    if truth is not None and len(truth) != len(train.units):
        raise ModulesError(
            f"truth should have one label per unit, {len(train.units)}; got {len(truth)}. Label "
            "units without a true module -1."
        )
    return truth


def _truth_ari(owners: Int[np.ndarray, " units"], modules: ModuleSet) -> float:
    from sklearn.metrics import adjusted_rand_score

    owned = owners >= 0
    return float(adjusted_rand_score(owners[owned], modules.unit_labels[owned]))


def _fitted(
    acts: ActivationMatrix,
    method: ComparedMethod,
    n_modules: int,
    seed: int,
    device: torch.device | None,
) -> ModuleSet:
    found = partial(discover, acts, n_modules, seed=seed, device=device, progress=False)
    if method == "topics_first":
        return found(method=method)
    if method == "iterd":
        return found(method="ulcmod")
    if method == "iterd_kicks":
        return found(n_kicks=KICKS)
    return discover_baseline(acts, method, n_modules, seed=seed)


def _warm_up(
    methods: Sequence[ComparedMethod], dtype: np.dtype, device: torch.device | None
) -> None:
    """Import and compile what the methods need, so that it does not count as their time."""
    noise = np.random.default_rng(0).random((12, 20)).astype(dtype)  # kernels differ by dtype
    for method in methods:
        _fitted(ActivationMatrix.from_arrays(noise), method, 2, 0, device)
