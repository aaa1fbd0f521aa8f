"""What the start of discovery takes, beside IterD and beside the start of before, in one run.

    python -m benchmarks.start [--acts FILE] [--modules 5 10 20] [--seeds 10]

The start of before fits scikit-learn's PCA to the whole matrix, and keeps the restart of
k-means-constrained (``pip install k-means-constrained``) with the least within-cluster distances.
Both starts and IterD use the same number of threads. Intervals are 95 % of the mean over seeds (t).

Without ``--acts`` it collects the public prompts beside the project, or the project's own.
"""

import argparse
import time
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
import pandas as pd
from scipy.stats import t
from sklearn.metrics import adjusted_rand_score

from benchmarks.search import given_or_collected
from tl_modules.discovery.descent import IterDResult, descend
from tl_modules.discovery.products import InMemory, pca
from tl_modules.discovery.start import (
    N_COMPONENTS,
    N_RESTARTS,
    principal_components,
    start_labels,
    start_points,
)
from tl_modules.discovery.topics_first import topic_labels
from tl_modules.runtime.determinism import one_thread

_Result = TypeVar("_Result")


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--acts", help="an ActivationMatrix saved before")
    parser.add_argument("--modules", type=int, nargs="+", default=[5, 10, 20])
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--max-tokens", type=int, default=24)
    args = parser.parse_args()
    acts = given_or_collected(args.acts, args.max_tokens)
    print(acts)
    products = InMemory(acts.zscore().values)
    compile_all(products)
    rows = []
    with one_thread():
        for seed in range(args.seeds):
            rows += [measured(products, k, seed) for k in args.modules]
            print(f"seed {seed} measured", flush=True)
    table = pd.DataFrame(rows)
    print_start(table)
    print_topics(table)


def measured(products: InMemory, n_modules: int, seed: int) -> dict[str, Any]:
    """The figures of one K and seed."""
    row: dict[str, Any] = {"K": n_modules}
    start, row["start"] = timed(lambda: start_of_now(products, n_modules, seed))
    found, row["iterd"] = timed(lambda: converged(products, n_modules, start, seed))
    points, row["pca_before"] = timed(lambda: pca(products.matrix, N_COMPONENTS, seed))
    start, seconds = timed(lambda: balanced_of_before(points, n_modules, seed))
    row["start_before"] = row["pca_before"] + seconds
    before, row["iterd_before"] = timed(lambda: converged(products, n_modules, start, seed))
    row["L"], row["L_before"] = found.objective.L, before.objective.L

    if n_modules > N_COMPONENTS:
        points = pca(products.matrix, n_modules, seed)
    now, row["pca"] = timed(lambda: principal_components(products, seed, n_modules))
    topics, row["kmeans"] = timed(lambda: topic_labels(now, n_modules, seed))
    _, row["sums"] = timed(lambda: products.unit_sums(topics, n_modules))
    row["ari"] = adjusted_rand_score(topics, topic_labels(points, n_modules, seed))
    return row


def start_of_now(products: InMemory, n_modules: int, seed: int) -> np.ndarray:
    """The start of ``discover(method="ulcmod")``."""
    return start_labels(start_points(products, seed), "kmeans", n_modules, seed)


def balanced_of_before(points: np.ndarray, n_modules: int, seed: int) -> np.ndarray:
    """Balanced k-means by minimum-cost flows over the samples, the best restart by distances."""
    from k_means_constrained import KMeansConstrained

    clustering = KMeansConstrained(
        n_clusters=n_modules,
        size_min=len(points) // n_modules,
        size_max=-(-len(points) // n_modules),
        n_init=N_RESTARTS,
        random_state=seed,
    )
    return np.asarray(clustering.fit(points.astype(np.float64)).labels_, dtype=np.int64)


def converged(products: InMemory, n_modules: int, start: np.ndarray, seed: int) -> IterDResult:
    """IterD until nothing moves."""
    return descend(products, n_modules, start.copy(), max_rounds=100, seed=seed)


def print_start(table: pd.DataFrame) -> None:
    """Seconds, ratios and L of ``ulcmod``."""
    print("\nulcmod: seconds, and L of now against before")
    for k, rows in table.groupby("K"):
        ratio, before = rows["start"] / rows["iterd"], rows["start_before"] / rows["iterd_before"]
        gain = 100 * (rows["L"] / rows["L_before"] - 1)
        print(
            f"K = {k:<3} start {rows['start'].mean():.3f} s, IterD {rows['iterd'].mean():.3f} s, "
            f"ratio {interval(ratio)}; before: start {rows['start_before'].mean():.3f} s, IterD "
            f"{rows['iterd_before'].mean():.3f} s, ratio {interval(before)}\n"
            f"        L {rows['L'].mean():,.0f}, before {rows['L_before'].mean():,.0f}: "
            f"{interval(gain)} %, worst seed {gain.min():+.2f} %"
        )


def print_topics(table: pd.DataFrame) -> None:
    """Seconds of the parts of ``topics_first``, and how far its topics are those of before."""
    print("\ntopics_first: seconds, and agreement of the topics with those of before")
    for k, rows in table.groupby("K"):
        print(
            f"K = {k:<3} components {rows['pca'].mean():.3f} s (before, 16 of them: "
            f"{rows['pca_before'].mean():.3f} s), k-means {rows['kmeans'].mean():.3f} s, sums "
            f"{rows['sums'].mean():.3f} s; ARI {interval(rows['ari'])}, lowest "
            f"{rows['ari'].min():.3f}"
        )


def interval(values: pd.Series) -> str:
    """The mean and half its 95 % interval."""
    half = t.ppf(0.975, len(values) - 1) * values.sem() if len(values) > 1 else float("nan")
    return f"{values.mean():.2f} ± {half:.2f}"


def timed(call: Callable[[], _Result]) -> tuple[_Result, float]:
    """The result of a call, and its seconds."""
    started = time.perf_counter()
    return call(), time.perf_counter() - started


def compile_all(products: InMemory) -> None:
    """Run each part once on a corner of the matrix: compiling and importing do not count."""
    corner = InMemory(products.matrix[:40, :80])
    measured(corner, 2, 0)


if __name__ == "__main__":
    main()
