import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

import tl_modules as tlm
from tests.conftest import once
from tests.evaluation.test_downstream import labelled
from tl_modules.discovery import _kernel
from tl_modules.evaluation import comparison
from tl_modules.evaluation.comparison import (
    COMPARED_METHODS,
    compare_methods,
    split_by_category,
    summarise,
)


@pytest.fixture(scope="module")
def runs():
    return compare_methods(labelled(0), labelled(1), (3, 4), n_seeds=2, progress=False)


def test_there_is_a_row_for_every_method_k_and_seed(runs):
    assert len(runs) == len(COMPARED_METHODS) * 2 * 2
    assert not runs.duplicated(["method", "n_modules", "seed"]).any()
    assert set(runs["seed"]) == {0, 1}
    assert runs.notna().all(axis=None)


def test_planted_categories_are_found_by_iterd(runs):
    best = runs[(runs["method"] == "iterd") & (runs["n_modules"] == 4)]
    assert (best[["ari", "nmi", "svc_accuracy", "lr_macro_f1"]] > 0.95).all(axis=None)


def test_each_row_is_what_the_single_calls_give(runs):
    row = runs.set_index(["method", "n_modules", "seed"]).loc[("kmeans", 3, 1)]
    train, test = labelled(0), labelled(1)
    modules = tlm.discover_baseline(train, "kmeans", 3, seed=1)
    assert row[["L", "xi", "B"]].to_dict() == vars(modules.objective)
    found = tlm.probe(modules, train, test, "lr")
    assert (row["lr_accuracy"], row["lr_macro_f1"]) == (found.accuracy, found.macro_f1)


def test_no_method_that_searches_longer_ends_lower(runs):
    best = runs.pivot(index=["n_modules", "seed"], columns="method", values="L")
    assert (best["iterd_kicks"] >= best["iterd"]).all()


def test_the_summary_is_mean_and_deviation_over_seeds(runs):
    table = summarise(runs)
    own = runs[(runs["method"] == "spectral") & (runs["n_modules"] == 3)]["L"]
    assert table.loc[(3, "spectral"), ("L", "mean")] == pytest.approx(own.mean())
    assert table.loc[(3, "spectral"), ("L", "std")] == pytest.approx(own.std())
    assert table.index.get_level_values("method")[: len(COMPARED_METHODS)].tolist() == list(
        COMPARED_METHODS
    )


def test_a_fifth_of_every_category_is_held_out():
    acts = labelled(0)  # 15 samples of each of 4 categories
    train, test = split_by_category(acts, seed=3)
    assert test.samples["category"].value_counts().tolist() == [3] * 4
    assert train.samples["category"].value_counts().tolist() == [12] * 4
    rows = {row.tobytes() for row in acts.values}
    parts = [{row.tobytes() for row in part.values} for part in (train, test)]
    assert parts[0] | parts[1] == rows
    assert not parts[0] & parts[1]
    again = split_by_category(acts, seed=3)[1]
    assert again.samples.equals(test.samples)
    assert not np.array_equal(split_by_category(acts, seed=4)[1].values, test.values)


def test_what_cannot_be_compared_or_split_is_refused():
    train, test = labelled(0), labelled(1)
    with pytest.raises(tlm.ModulesError, match="methods should be one of 'iterd'"):
        compare_methods(train, test, (3,), methods=["guess"])
    with pytest.raises(tlm.ModulesError, match="n_modules should lie between 2 and 60; got 61"):
        compare_methods(train, test, (3, 61))
    with pytest.raises(tlm.ModulesError, match="n_seeds should be at least 1; got 0"):
        compare_methods(train, test, (3,), n_seeds=0)
    with pytest.raises(tlm.ModulesError, match="train should be raw activations"):
        compare_methods(train.zscore(), test, (3,))
    bare = tlm.ActivationMatrix.from_arrays(train.values)
    with pytest.raises(tlm.ModulesError, match="test should have a category"):
        compare_methods(train, bare, (3,))
    with pytest.raises(tlm.ModulesError, match="test_share should lie between 0 and 1; got 1"):
        split_by_category(train, test_share=1.0)
    lone = train.samples.assign(category=["rare", *["common"] * 59])
    with pytest.raises(tlm.ModulesError, match="'rare' should have at least 2 samples"):
        split_by_category(tlm.ActivationMatrix.from_arrays(train.values, samples=lone))


PEAK = """
import time
import numpy as np
from tl_modules.runtime.peak_memory import PeakMemory

def megabytes(n):
    return np.ones(n * 1_000_000 // 8)

{before}
with PeakMemory() as peak:
    {first}
    block = megabytes(50)
    time.sleep(0.1)
    del block
    kept = megabytes(10)
print(peak.bytes)
"""

# Freeing a 30 MB block makes the allocator serve this size from its heap; the small objects that
# come last keep the heap from shrinking when the large ones go.
FREED = """
first = megabytes(30)
del first
large = [megabytes(30) for _ in range(4)]
small = [bytes(200) for _ in range(10_000)]
del large
"""

# Blocks that only the garbage collector frees, which the many lists call.
GARBAGE = """
for _ in range(3):
    ring = [megabytes(30)]
    ring.append(ring)
del ring
"""


@once
@pytest.mark.skipif(sys.platform != "linux", reason="freed memory is given back on Linux alone")
@pytest.mark.parametrize(
    ("before", "first"),
    [("", ""), (FREED, ""), (GARBAGE, "lists = [[] for _ in range(10_000)]")],
    ids=["fresh", "freed", "garbage"],
)
def test_peak_memory_is_what_a_block_took_at_most(before, first):
    # In a process of its own: what other tests left behind would decide otherwise.
    script = PEAK.format(before=before, first=first)
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert 45e6 < int(run.stdout) < 80e6


def test_no_run_is_charged_for_compiling():
    wide = tlm.ActivationMatrix.from_arrays(labelled(0).values.astype(np.float32))
    train = replace(labelled(0), values=wide.values)
    comparison._warm_up(COMPARED_METHODS, train.values.dtype, None)
    kernels = vars(_kernel.PARALLEL).values()
    before = [len(kernel.signatures) for kernel in kernels]
    for method in COMPARED_METHODS:
        comparison._fitted(train, method, 3, 0, None)
    assert [len(kernel.signatures) for kernel in kernels] == before


def test_activations_of_other_units_are_refused_before_any_run():
    other = tlm.ActivationMatrix.from_arrays(
        labelled(1).values[:, :50], samples=labelled(1).samples
    )
    with pytest.raises(tlm.ModulesError, match="train and test should have the same units"):
        compare_methods(labelled(0), other, (3,))


def test_truth_and_halves_are_measured():
    train, test = labelled(0), labelled(1)
    owners = tlm.discover(train, 4, seed=0, progress=False).unit_labels.copy()
    owners[:3] = -1  # units without a true module do not count
    options = {"methods": ["iterd", "topics_first"], "n_seeds": 1, "progress": False}
    runs = compare_methods(train, test, (4,), truth=owners, **options).set_index("method")
    assert runs.loc["iterd", "truth_ari"] == 1
    assert (runs[["truth_ari", "halves_ari"]] > 0.8).all(axis=None)
    with pytest.raises(tlm.ModulesError, match="truth should have one label per unit"):
        compare_methods(train, test, (4,), truth=owners[:5], **options)
