from dataclasses import replace

import numpy as np
import pytest

import tl_modules as tlm
from tl_modules.modules.labels import BACKGROUND


@pytest.fixture(scope="module")
def acts(planted):
    """Four topics; the prompts of two of them are of one category."""
    matrix, samples, _ = planted
    names = np.array(["art", "law", "art", "sport"])[samples]
    return tlm.ActivationMatrix.from_arrays(matrix, samples={"category": names.tolist()})


@pytest.fixture(scope="module")
def modules(acts):
    return tlm.discover(acts, 4, progress=False)


def test_modules_of_one_category_become_one(acts, modules):
    merged = tlm.merge_modules(acts, modules)
    own = [module.category for module in modules]
    assert [module.category for module in merged] == list(dict.fromkeys(own))
    for module in merged:
        members = [each for each in modules if each.category == module.category]
        units = np.sort(np.concatenate([each.units.flat() for each in members]))
        assert module.units.flat().tolist() == units.tolist()
        assert len(module.samples) == sum(len(each.samples) for each in members)
    assert sorted(each.n_units for each in merged) != sorted(each.n_units for each in modules)


def test_scores_and_objective_are_those_of_the_merged_modules(acts, modules):
    merged = tlm.merge_modules(acts, modules, [[1, 3]])
    assert merged.n_modules == 3
    z = acts.zscore().values
    labels, topics = merged.unit_labels, merged.sample_labels
    assert np.isin(modules.unit_labels, [1, 3]).tolist() == (labels == 1).tolist()
    assert (labels[modules.unit_labels == 2] == 2).all()
    for row in (0, 7, 40):
        mean = z[row, labels == topics[row]].mean()
        assert merged.sample_scores[row] == pytest.approx(mean, rel=1e-5)
    for unit in (0, 60, 159):
        means = [z[topics == k, unit].mean() for k in range(3)]
        others = np.delete(means, labels[unit]).max()
        assert merged.unit_scores[unit] == pytest.approx(means[labels[unit]] - others, rel=1e-5)
        assert means[merged.unit_runners_up[unit]] == others
    sums = [z[np.ix_(topics == k, labels == k)] for k in range(3)]
    xi = sum(block.sum() for block in sums) / sum(block.size for block in sums)
    assert merged.objective.xi == pytest.approx(xi, rel=1e-5)


def test_units_that_were_set_aside_stay_so(acts, modules):
    shared = acts.units.select(np.arange(0, 160, 10))
    apart = tlm.discover(acts, 4, shared=shared, progress=False)
    merged = tlm.merge_modules(acts, apart, [[0, 1]])
    assert (merged.unit_labels[::10] == BACKGROUND).all()
    assert merged.shared.units.flat().tolist() == shared.flat().tolist()
    assert np.isnan(merged.unit_scores[::10]).all()
    assert np.isfinite(merged.unit_scores[1:10]).all()


def test_own_categories_that_the_user_gave_stay(acts, modules):
    named = modules.with_categories({0: "mine", 1: "mine"})
    merged = tlm.merge_modules(acts, named)
    assert merged[0].category == "mine"
    assert merged[0].n_units == modules[0].n_units + modules[1].n_units
    other = tlm.merge_modules(acts, named, [[0, 2]])
    assert other[1].category == "mine"
    assert other.own_categories[0] is None


def test_a_merged_set_can_be_saved(acts, modules, tmp_path):
    merged = tlm.merge_modules(acts, modules)
    merged.save(tmp_path / "merged")
    loaded = tlm.ModuleSet.load(tmp_path / "merged")
    assert loaded.unit_labels.tolist() == merged.unit_labels.tolist()
    assert loaded.objective == merged.objective


def test_a_tie_between_categories_is_said(acts, modules):
    names = np.array(["none", "law", "sport", "chess"])[modules.sample_labels]
    of_topic = np.flatnonzero(modules.sample_labels == 0)
    even = of_topic[: len(of_topic) // 2 * 2]
    names[even] = np.resize(["art", "law"], len(even))
    samples = acts.samples.assign(category=names)
    tied = tlm.discover(replace(acts, samples=samples), 4, progress=False)
    assert any(module.tied_categories for module in tied)
    with pytest.warns(UserWarning, match="are ties, and the first by name is taken"):
        tlm.merge_modules(replace(acts, samples=samples), tied)


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        ([[0, 1], [1, 2]], "should be in one group, once"),
        ([[0, 0]], "should be in one group, once"),
        ([[0, 1, 2, 3]], "would leave one. Merge fewer"),
        ([[0, 9]], r"numbered 0\.\.3"),
    ],
)
def test_groups_that_are_not_valid_are_refused(acts, modules, groups, message):
    with pytest.raises(tlm.ModulesError, match=message):
        tlm.merge_modules(acts, modules, groups)


def test_other_activations_and_missing_categories_are_refused(acts, modules):
    with pytest.raises(tlm.ModulesError, match="that the modules were discovered on"):
        tlm.merge_modules(acts.select(np.arange(20)), modules)
    shuffled = acts.select(np.arange(60)[::-1])
    named = acts.samples.assign(prompt=[f"prompt {row}" for row in range(60)])
    acts, shuffled = (replace(each, samples=named) for each in (acts, shuffled))
    shuffled = replace(shuffled, samples=named.iloc[::-1])
    with pytest.raises(tlm.ModulesError, match="or other prompts"):
        tlm.merge_modules(shuffled, tlm.discover(acts, 4, progress=False))
    unnamed = tlm.ActivationMatrix.from_arrays(acts.values)
    found = tlm.discover(unnamed, 4, progress=False)
    with pytest.raises(tlm.ModulesError, match="every module's own category"):
        tlm.merge_modules(unnamed, found)
