"""Stability of partitions: over seeds, over halves of the prompts, and against chance."""

from collections.abc import Iterator, Sequence
from functools import partial
from itertools import combinations

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from tqdm.auto import tqdm

from tl_modules.activations.matrix import ActivationMatrix
from tl_modules.activations.normalise import Normalisation, fit_normaliser
from tl_modules.discovery.descent import IterDResult, check_n_modules, descend, strongest_labels
from tl_modules.discovery.objectives import objective
from tl_modules.discovery.on_device import checked_device, placed
from tl_modules.discovery.products import InMemory, Products
from tl_modules.discovery.search import MAX_ROUNDS, Method
from tl_modules.discovery.silhouettes import topic_silhouette
from tl_modules.discovery.start import start_labels, start_points
from tl_modules.discovery.topics_first import topics_first
from tl_modules.errors import ModulesError, check_at_least, check_seed
from tl_modules.runtime.arguments import checked
from tl_modules.runtime.determinism import one_thread

_Matrix = Float[np.ndarray, "samples units"]


@checked
def stability(  # noqa: PLR0913 - the options of one measurement, all by keyword
    acts: ActivationMatrix,
    n_modules: int,
    *,
    method: Method = "topics_first",
    n_seeds: int = 5,
    n_halves: int = 5,
    normalise: Normalisation = "zscore",
    seed: int = 0,
    device: str | torch.device | None = None,
    progress: bool = True,
) -> pd.DataFrame:
    """Measure how well discoveries agree, to see whether modules are more than a seed's outcome.

    Args:
        acts: Raw activations.
        n_modules: K.
        method: The method of the discoveries; see ``discover``.
        n_seeds: Number of discoveries on all samples, with different seeds. Every pair is
            compared.
        n_halves: Number of random splits of the samples. The discoveries of the two halves are
            compared. The null compares them again after every column of each half is permuted.
        normalise: Normalisation of each half; see ``ActivationMatrix.normalise``.
        seed: Seed of discoveries, splits and permutations.
        device: Where to compute the discoveries' sums, such as ``"cuda"``; see ``discover``.
        progress: Show a progress bar.

    Returns:
        One row per comparison, with the columns

        - ``kind``: ``"seeds"``, ``"halves"`` or ``"null"``.
        - ``ari``, ``nmi``: adjusted Rand index and normalised mutual information of the units'
          labels.
        - ``L``: mean over the two discoveries.
        - ``held_out_L``: the second half's objective under the first half's unit labels. Each
          sample gets the module whose units it drives most. NaN for seeds. L grows with the number
          of samples, so compare ``held_out_L`` with the ``L`` of the halves and of the null.

    Raises:
        ModulesError: If ``acts`` is normalised already, K is out of range for half of the samples,
            the seed is not valid, or torch lacks the device.
    """
    check_at_least("n_seeds", n_seeds, 2)
    check_at_least("n_halves", n_halves, 1)
    check_seed(seed)
    check_seed(seed + n_seeds - 1)
    on = checked_device(device)
    if acts.normaliser is not None:
        raise ModulesError(
            "stability() normalises each half by itself and needs raw activations; got "
            f"{acts.normaliser.noun}. Pass the matrix as collected."
        )
    rows = []
    total, desc = n_seeds + 4 * n_halves, f"stability, K = {n_modules}"
    with tqdm(total=total, desc=desc, unit="fit", disable=not progress) as bar:

        def products(matrix: _Matrix) -> Products:
            return placed(InMemory(matrix), n_modules, on)

        def fit(matrix: Products, fit_seed: int) -> IterDResult:
            result = _partition(matrix, n_modules, method, fit_seed)
            bar.update()
            return result

        whole = products(acts.normalise(normalise).values)
        fits = [fit(whole, seed + number) for number in range(n_seeds)]
        del whole  # a device may have too little memory for it beside the halves
        rows += [_agreement("seeds", one, other) for one, other in combinations(fits, 2)]
        for kind, first, second in _halves(acts.values, n_halves, seed):
            fitted = [fit_normaliser(normalise, half) for half in (first, second)]
            one, other = (
                fit(products(normaliser.apply(half)), seed)
                for normaliser, half in zip(fitted, (first, second), strict=True)
            )
            # The second half is scaled as the first one's labels were fitted.
            held_out = _held_out(fitted[0].apply(second), one.unit_labels, n_modules)
            rows.append(_agreement(kind, one, other) | {"held_out_L": held_out})
    return pd.DataFrame(rows)


@checked
def choose_n_modules(  # noqa: PLR0913 - the options of one measurement, all by keyword
    acts: ActivationMatrix,
    n_modules: Sequence[int] = (5, 10, 15, 20),
    *,
    method: Method = "topics_first",
    n_seeds: int = 5,
    n_halves: int = 5,
    normalise: Normalisation = "zscore",
    seed: int = 0,
    device: str | torch.device | None = None,
    progress: bool = True,
) -> pd.DataFrame:
    """Run ``stability`` over a range of K, to choose the number of modules.

    ``best_n_modules`` names the K of the highest silhouette: the K at which the prompts form the
    most distinct groups. At a good K, halves also agree well, far above the null, and their
    held-out L is close to their L. ``plot_n_modules`` draws the result.

    The silhouette (Rousseeuw 1987) compares each prompt's distance to its own group with its
    distance to the nearest other group, from -1 to 1. Groups come from k-means, and distances are
    1 - cosine on the first 16 principal components, so that groups of any size count.

    Args:
        acts: Raw activations.
        n_modules: The values of K.
        method: See ``stability``.
        n_seeds: See ``stability``.
        n_halves: See ``stability``.
        normalise: See ``stability``.
        seed: See ``stability``.
        device: See ``stability``.
        progress: Show a progress bar for each K.

    Returns:
        One row per K and kind. The columns have two levels: ``ari``, ``nmi``, ``L``,
        ``held_out_L`` and ``silhouette``, and under each its ``mean`` and ``std``. The silhouette
        belongs to a K: it is the same for every kind, whatever the method.

    Raises:
        ModulesError: As in ``stability``.
    """
    if not len(n_modules):
        raise ModulesError("n_modules should name at least one K; got none. Pass [5, 10, 15, 20].")
    measured = partial(
        stability,
        acts,
        method=method,
        n_seeds=n_seeds,
        n_halves=n_halves,
        normalise=normalise,
        seed=seed,
        device=device,
        progress=progress,
    )
    tables = [measured(n_modules=k).assign(n_modules=k) for k in n_modules]
    scored = placed(
        InMemory(acts.normalise(normalise).values), max(n_modules), checked_device(device)
    )
    for k, table in zip(n_modules, tables, strict=True):
        table["silhouette"] = topic_silhouette(scored, k, seed)
    grouped = pd.concat(tables).groupby(["n_modules", "kind"])
    numbers = ["ari", "nmi", "L", "held_out_L", "silhouette"]
    return pd.DataFrame(grouped[numbers].agg(["mean", "std"]))


@checked
def best_n_modules(table: pd.DataFrame) -> int:
    """Return the K at which the prompts form the most distinct groups, to pass it to ``discover``.

    Args:
        table: What ``choose_n_modules`` returned.

    Returns:
        The K of the highest silhouette; the smallest of several.

    Raises:
        ModulesError: If the table has no silhouettes.
    """
    if ("silhouette", "mean") not in table.columns or table.empty:
        raise ModulesError(
            f"table should be what choose_n_modules returned, with silhouettes; its columns are "
            f"{[str(name) for name in table.columns]}. Pass that table."
        )
    values = table[("silhouette", "mean")].to_numpy(dtype=float)
    best = np.flatnonzero(values == np.nanmax(values))
    return int(table.index.get_level_values("n_modules")[best].min())


def _partition(products: Products, n_modules: int, method: Method, seed: int) -> IterDResult:
    check_n_modules(n_modules, products.shape)
    if method == "topics_first":
        return topics_first(products, n_modules, seed)
    with one_thread():
        labels = start_labels(start_points(products, seed), "kmeans", n_modules, seed)
    return descend(products, n_modules, labels, max_rounds=MAX_ROUNDS, seed=seed)


def _halves(values: _Matrix, n_halves: int, seed: int) -> Iterator[tuple[str, _Matrix, _Matrix]]:
    """Yield random halves of the samples, and after each pair the same halves as a null.

    In a null, every column is permuted independently.
    """
    generator = np.random.default_rng(seed)
    for _ in range(n_halves):
        order = generator.permutation(len(values))
        first, second = values[order[::2]], values[order[1::2]]
        yield "halves", first, second
        yield "null", generator.permuted(first, axis=0), generator.permuted(second, axis=0)


def _agreement(kind: str, one: IterDResult, other: IterDResult) -> dict[str, object]:
    from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score  # slow to import

    return {
        "kind": kind,
        "ari": float(adjusted_rand_score(one.unit_labels, other.unit_labels)),
        "nmi": float(normalized_mutual_info_score(one.unit_labels, other.unit_labels)),
        "L": (one.objective.L + other.objective.L) / 2,
        "held_out_L": float("nan"),
    }


def _held_out(matrix: _Matrix, unit_labels: Int[np.ndarray, " units"], n_modules: int) -> float:
    """L of new samples under fixed unit labels."""
    sums = InMemory(matrix).sample_sums(unit_labels, n_modules)
    return objective(matrix, strongest_labels(sums, unit_labels), unit_labels, n_modules).L
