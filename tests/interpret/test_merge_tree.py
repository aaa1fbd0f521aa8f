from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

import tl_modules as tlm
from tests.planted import planted_matrix
from tl_modules.evaluation.module_means import module_means
from tl_modules.modules.labels import BACKGROUND

SUPERGROUPS = np.array([0, 0, 1, 1])


@pytest.fixture(scope="module")
def planted():
    """Four blocks in two supergroups: a block's samples drive its sibling's units half as much."""
    generator = np.random.default_rng(0)
    samples = generator.permutation(np.arange(80) % 4)
    units = generator.permutation(np.arange(120) % 4)
    strength = 2.0 * np.eye(4) + 1.0 * (SUPERGROUPS[:, None] == SUPERGROUPS)
    values = generator.normal(size=(80, 120)) + strength[samples][:, units]
    acts = tlm.ActivationMatrix.from_arrays(values)
    return tlm.discover(acts, 4), acts, units


def planted_groups(modules, units):
    """Which planted supergroup each module is of, and that the four were found."""
    blocks = [np.bincount(units[modules.unit_labels == k]).argmax() for k in range(4)]
    assert sorted(blocks) == [0, 1, 2, 3]
    return SUPERGROUPS[blocks]


def test_a_planted_two_level_hierarchy_is_recovered(planted):
    modules, acts, units = planted
    tree = tlm.hierarchy(modules, acts)
    groups = planted_groups(modules, units)
    branches = tree.cut(2)
    assert branches[0] == 0
    np.testing.assert_array_equal(branches == branches[0], groups == groups[0])
    assert tree.cut(4).tolist() == [0, 1, 2, 3]
    assert tree.cut(1).tolist() == [0, 0, 0, 0]
    assert tree.cophenetic > 0.9


def test_merges_are_at_the_mean_distance_of_profiles(planted):
    modules, acts, _ = planted
    tree = tlm.hierarchy(modules, acts)
    distances = 1 - np.corrcoef(module_means(modules, acts).T)
    np.fill_diagonal(distances, np.inf)
    assert tree.linkage[0, 2] == pytest.approx(distances.min())
    first = tree.cut(2) == 0
    assert tree.linkage[-1, 2] == pytest.approx(distances[np.ix_(first, ~first)].mean())


def test_noise_makes_a_tree_no_better_than_its_null():
    generator = np.random.default_rng(1)
    p_values = []
    for _ in range(20):
        acts = tlm.ActivationMatrix.from_arrays(generator.normal(size=(30, 60))).zscore()
        labels = np.arange(60) % 6
        modules = replace(
            tlm.discover(acts, 6), unit_labels=labels, sample_labels=np.arange(30) % 6
        )
        p_values.append(tlm.hierarchy(modules, acts, n_permutations=39).p_value)
    assert np.mean(np.array(p_values) <= 0.05) < 0.2
    assert 0.35 < np.mean(p_values) < 0.65


def test_a_real_tree_is_more_of_a_tree_than_its_null():
    generator = np.random.default_rng(0)
    samples, units = np.arange(80) % 8, np.arange(160) % 8
    pairs, quads = np.arange(8) // 2, np.arange(8) // 4
    strength = 3.0 * np.eye(8) + 2.0 * (pairs[:, None] == pairs) + 1.5 * (quads[:, None] == quads)
    values = generator.normal(size=(80, 160)) + strength[samples][:, units]
    acts = tlm.ActivationMatrix.from_arrays(values)
    modules = replace(tlm.discover(acts, 8), unit_labels=units, sample_labels=samples)
    tree = tlm.hierarchy(modules, acts)
    assert tree.p_value == 1 / 200
    np.testing.assert_array_equal(tree.cut(4), pairs)
    np.testing.assert_array_equal(tree.cut(2), quads)
    for n in range(1, 9):  # each branch by its first module, in order
        branches = tree.cut(n)
        assert list(dict.fromkeys(branches.tolist())) == list(range(n))


def test_coarser_modules_are_the_union_of_a_branchs(planted):
    modules, acts, _ = planted
    labels = modules.unit_labels.copy()
    labels[:7] = BACKGROUND
    modules = replace(modules, unit_labels=labels)
    tree = tlm.hierarchy(modules, acts)
    coarse, branches = tree.coarsen(2, acts), tree.cut(2)
    assert len(coarse) == 2
    assert coarse.method == "merged"
    assert len(coarse.background) == 7
    for branch in (0, 1):
        members = np.flatnonzero(branches == branch)
        merged = np.concatenate([modules[int(k)].units.flat() for k in members])
        np.testing.assert_array_equal(coarse[branch].units.flat(), np.sort(merged))
    np.testing.assert_array_equal(coarse.sample_labels, branches[modules.sample_labels])


def test_a_coarser_sets_objective_and_scores_are_those_of_its_partition(planted):
    modules, acts, _ = planted
    coarse = tlm.hierarchy(modules, acts).coarsen(2, acts)
    values = acts.zscore().values
    expected = tlm.objective(values, coarse.sample_labels, coarse.unit_labels, 2)
    for name in ("xi", "B", "L"):
        assert getattr(coarse.objective, name) == pytest.approx(getattr(expected, name))
    of_first = values[0, coarse.unit_labels == coarse.sample_labels[0]]
    assert coarse.sample_scores[0] == pytest.approx(of_first.mean())


def test_two_modules_make_a_tree_without_a_cophenetic_correlation(planted):
    _, acts, _ = planted
    tree = tlm.hierarchy(tlm.discover(acts, 2), acts, n_permutations=1)
    assert np.isnan(tree.cophenetic)
    assert np.isnan(tree.p_value)
    assert tree.cut(2).tolist() == [0, 1]


def test_a_tree_shows_itself_in_one_line_and_is_frozen(planted):
    modules, acts, _ = planted
    tree = tlm.hierarchy(modules, acts)
    assert repr(tree).startswith("Hierarchy(4 modules, merging at 0.")
    with pytest.raises(AttributeError):
        tree.cophenetic = 1.0


def test_what_makes_no_tree_is_refused(planted):
    modules, acts, _ = planted
    with pytest.raises(tlm.ModulesError, match=r"at least 3 samples .* got 2"):
        tlm.hierarchy(modules, acts.select([0, 1]))
    emptied = replace(modules, unit_labels=np.where(modules.unit_labels == 2, 1, 0))
    with pytest.raises(tlm.ModulesError, match=r"that of modules \[2, 3\] does not"):
        tlm.hierarchy(emptied, acts)
    with pytest.raises(tlm.ModulesError, match="n_permutations should be at least 1; got 0"):
        tlm.hierarchy(modules, acts, n_permutations=0)
    with pytest.raises(tlm.ModulesError, match="seed should lie between"):
        tlm.hierarchy(modules, acts, seed=-1)
    tree = tlm.hierarchy(modules, acts)
    for n in (0, 5):
        with pytest.raises(tlm.ModulesError, match=f"between 1 and 4; got {n}"):
            tree.cut(n)
    with pytest.raises(tlm.ModulesError, match="n should be at least 2; got 1"):
        tree.coarsen(1, acts)
    with pytest.raises(tlm.ModulesError, match=r"the 80 samples .*; they hold 79"):
        tree.coarsen(2, acts.select(np.arange(79)))


def test_coarser_modules_have_topics_of_their_own_to_be_found():
    values, _, _ = planted_matrix(60, 120, 4, seed=0, strength=2.0)
    prompts = pd.DataFrame({"prompt": [f"number {row}" for row in range(60)]})
    acts = tlm.ActivationMatrix.from_arrays(values, samples=prompts)
    modules = tlm.with_topics(tlm.discover(acts, 4))
    coarser = tlm.hierarchy(modules, acts).coarsen(2, acts)
    assert coarser.topics is None
    assert len(tlm.with_topics(coarser).topics) == 2
