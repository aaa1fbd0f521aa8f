from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

import tl_modules as tlm
from tests.interpret.made_by_hand import layered, module_set

N_UNITS = 12


def made(labels, categories, n_modules, seed=0):
    """A set with these labels of samples, and z-scored activations of noise."""
    units = layered((N_UNITS,))
    modules = module_set(np.arange(N_UNITS) % n_modules, units, labels, categories, n_modules)
    values = np.random.default_rng(seed).normal(size=(len(labels), N_UNITS))
    acts = tlm.ActivationMatrix.from_arrays(values, units, modules.samples)
    return modules, acts.zscore()


@pytest.fixture(scope="module")
def left_out():
    """Categories a and b have a module each; half of c's samples are in each."""
    categories = np.repeat(["a", "b", "c"], [20, 20, 10])
    labels = np.repeat([0, 1, 0, 1], [20, 20, 5, 5])
    return made(labels, categories, 2)


def test_a_category_that_no_module_is_mostly_of_is_uncovered(left_out):
    found = tlm.coverage(*left_out)
    assert found.uncovered == ["c"]
    each = found.categories.set_index("category")
    assert each["covered"].to_dict() == {"a": True, "b": True, "c": False}
    assert each["module"][["a", "b"]].tolist() == [0, 1]
    assert each["n"].tolist() == [20, 20, 10]
    assert each["share_of_module"].tolist() == [0.8, 0.8, 0.2]
    assert each["p_value"][["a", "b"]].tolist() == [1 / 1000] * 2
    assert each["p_value"]["c"] == 1  # no permutation spreads it more evenly
    assert each["null_mean"]["a"] < 0.6


def test_the_table_holds_every_category_and_module(left_out):
    modules, acts = left_out
    table = tlm.coverage(modules, acts).table
    assert len(table) == 3 * 2
    for row in table.itertuples():
        of = (modules.samples["category"] == row.category).to_numpy()
        labelled = modules.sample_labels == row.module
        block = acts.values[of][:, modules.unit_labels == row.module]
        assert row.mean_activation == pytest.approx(block.mean())
        assert row.n_samples == (of & labelled).sum()
        assert row.share_of_category == pytest.approx((of & labelled).sum() / of.sum())
        assert row.share_of_module == pytest.approx((of & labelled).sum() / labelled.sum())


def test_the_rule_is_the_callers(left_out):
    assert tlm.coverage(*left_out, least_share=0.1).uncovered == []
    strict = tlm.coverage(*left_out, least_share=0.8)
    assert strict.uncovered == ["a", "b", "c"]  # more than the share, not as much
    assert strict.least_share == 0.8


def test_random_categories_have_no_small_p_values():
    generator = np.random.default_rng(0)
    found = [
        tlm.coverage(
            *made(np.arange(60) % 4, generator.permutation(np.arange(60) % 3).astype(str), 4),
            n_permutations=99,
            seed=seed,
        ).categories
        for seed in range(30)
    ]
    p_values = pd.concat(found)["p_value"]
    assert (p_values <= 0.05).mean() < 0.12
    assert p_values.mean() > 0.4


def test_a_module_of_one_sample_covers_by_the_rule_and_the_null_says_so():
    labels = np.array([2] + [0, 1] * 15)
    categories = ["rare"] * 3 + ["a"] * 28
    found = tlm.coverage(*made(labels, categories, 3)).categories.set_index("category")
    assert found["covered"]["a"]
    assert found["covered"]["rare"]
    assert found["p_value"]["rare"] > 0.05


def test_a_module_without_samples_covers_nothing():
    modules, acts = made(np.arange(20) % 2, np.repeat(["a", "b"], 10), 3)
    table = tlm.coverage(modules, acts).table.query("module == 2")
    assert (table[["n_samples", "share_of_category", "share_of_module"]] == 0).all(axis=None)


def test_planted_categories_are_covered_after_discovery():
    generator = np.random.default_rng(0)
    groups, units = np.arange(60) % 3, np.arange(90) % 3
    values = generator.normal(size=(60, 90)) + 2.0 * (groups[:, None] == units)
    samples = pd.DataFrame({"category": [f"c{group}" for group in groups]})
    acts = tlm.ActivationMatrix.from_arrays(values, samples=samples)
    found = tlm.coverage(tlm.discover(acts, 3), acts)
    assert found.uncovered == []
    best = found.table.loc[found.table.groupby("category")["mean_activation"].idxmax()]
    assert best["module"].tolist() == found.categories["module"].tolist()


def test_coverage_shows_itself_as_its_table_of_categories(left_out):
    found = tlm.coverage(*left_out)
    assert repr(found) == (
        "Coverage(2 of 3 categories covered: more than 50% of a module's samples; uncovered: ['c'])"
    )
    assert "null_mean" in found._repr_html_()


def test_what_covers_nothing_is_refused(left_out):
    modules, acts = left_out
    with pytest.raises(tlm.ModulesError, match=r"the 50 samples .*; they hold 49"):
        tlm.coverage(modules, acts.select(np.arange(49)))
    with pytest.raises(tlm.ModulesError, match="in the same order; sample 1 differs"):
        tlm.coverage(modules, acts.select([0, 2, 1, *range(3, 50)]))
    with pytest.raises(tlm.ModulesError, match="acts should have a category for every sample"):
        tlm.coverage(modules, replace(acts, samples=acts.samples[["prompt"]]))
    for share in (-0.1, 1.0):
        with pytest.raises(
            tlm.ModulesError, match=f"least_share should be at least 0 and below 1; got {share}"
        ):
            tlm.coverage(modules, acts, least_share=share)
    with pytest.raises(tlm.ModulesError, match="n_permutations should be at least 1; got 0"):
        tlm.coverage(modules, acts, n_permutations=0)
    with pytest.raises(tlm.ModulesError, match="seed should lie between"):
        tlm.coverage(modules, acts, seed=-1)
