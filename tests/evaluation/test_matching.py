from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import tl_modules as tlm
from tests.conftest import tiny_model, unequal
from tests.planted import planted_matrix
from tl_modules.evaluation.module_means import module_means
from tl_modules.units import Units

WIDTHS = (50, 30, 40)


def module_set(unit_labels, sample_labels=(0, 1, 1), prompts=("x", "y", "z"), **fields):
    """A set of three layers' units with labels made by hand."""
    unit_labels, sample_labels = np.asarray(unit_labels), np.asarray(sample_labels)
    n_layers = len(WIDTHS)
    fields.setdefault("n_modules", int(unit_labels.max()) + 1)
    fields.setdefault("units", Units.whole(tuple("abc"), tuple(range(n_layers)), WIDTHS))
    return tlm.ModuleSet(
        samples=pd.DataFrame({"prompt": prompts, "category": [f"c{k}" for k in sample_labels]}),
        unit_labels=unit_labels,
        sample_labels=sample_labels,
        sample_scores=np.arange(1.0, len(sample_labels) + 1),
        objective=tlm.modules.Objective(1.0, 1.0, 1.0),
        **fields,
    )


def dealt(n_modules=4, seed=0):
    """Labels of all units, at random."""
    return np.random.default_rng(seed).integers(0, n_modules, sum(WIDTHS))


def shares(first, second):
    """What the Jaccard overlap is, by sets of units."""
    first, second = (set(module.units.flat().tolist()) for module in (first, second))
    return len(first & second) / max(len(first | second), 1)


def test_a_set_is_matched_to_itself_whatever_its_modules_are_called():
    order = np.array([2, 0, 3, 1])
    a = module_set(dealt())
    b = module_set(order[dealt()])
    match = tlm.match_modules(a, b)
    assert match.by == "units"
    assert match.pairs["module_a"].tolist() == [0, 1, 2, 3]
    assert match.pairs["module_b"].tolist() == order.tolist()
    assert (match.pairs["similarity"] == 1).all()
    assert match.pairs["n_common"].tolist() == [module.n_units for module in a]
    assert (match.pairs["p_value"] == 1 / 200).all()
    assert (match.diff()["share_kept"] == 1).all()
    assert match.moved_units().empty


def test_similarity_is_shared_units_over_united_ones():
    labels = dealt()
    labels[::7] = -1
    labels[labels == 2] = 3  # an empty module
    a, b = module_set(labels, n_modules=4), module_set(dealt(3, seed=1))
    match = tlm.match_modules(a, b)
    expected = [[shares(one, other) for other in b] for one in a]
    np.testing.assert_allclose(match.similarity, expected)
    turned = tlm.match_modules(b, a)
    np.testing.assert_array_equal(turned.similarity, match.similarity.T)


def test_units_that_moved_are_found_and_counted():
    before = np.arange(sum(WIDTHS)) % 4  # 30 units each
    after = before.copy()
    movers = np.flatnonzero(before == 1)[:10]
    after[movers] = 2
    called = np.array([3, 2, 1, 0])
    scores = np.zeros(len(before))
    scores[movers] = [1, -9, 3, 2, 5, 4, 7, 6, 8, 0]
    match = tlm.match_modules(module_set(before, unit_scores=scores), module_set(called[after]))
    np.testing.assert_allclose(match.pairs["similarity"], [1, 20 / 30, 30 / 40, 1])
    diff = match.diff()
    assert diff["module_b"].tolist() == [3, 2, 1, 0]
    assert diff["units_kept"].tolist() == [30, 20, 30, 30]
    assert diff["units_lost"].tolist() == [0, 10, 0, 0]
    assert diff["units_gained"].tolist() == [0, 0, 10, 0]
    np.testing.assert_allclose(diff["share_kept"], [1, 2 / 3, 1, 1])
    moved = match.moved_units()
    assert moved["score_a"].tolist() == [-9, 8, 7, 6, 5, 4, 3, 2, 1, 0]
    assert moved["score_b"].isna().all()
    flat = dict(zip("abc", np.cumsum((0, *WIDTHS)), strict=False))
    at = [flat[hook] + index for hook, index in zip(moved["hook_name"], moved["unit"], strict=True)]
    assert sorted(at) == movers.tolist()
    assert scores[at].tolist() == moved["score_a"].tolist()
    assert (moved["layer"] == ["abc".index(hook) for hook in moved["hook_name"]]).all()
    assert set(moved["module_a"]) == {1}
    assert set(moved["module_b"]) == {called[2]}


def test_units_move_into_the_background_and_out_of_it():
    before, after = dealt(), dealt()
    before[0] = after[5] = -1
    before[9] = after[9] = -1  # this one stays there
    moved = tlm.match_modules(module_set(before), module_set(after)).moved_units()
    assert moved["unit"].tolist() == [0, 5]
    assert moved["module_a"].isna().tolist() == [True, False]
    assert moved["module_b"].isna().tolist() == [False, True]
    assert moved["module_b"][0] == after[0]


def test_modules_beyond_the_smaller_sets_number_have_no_partner():
    labels = dealt()
    labels[np.flatnonzero(labels == 3)[::2]] = 0  # 0 is the larger part of the merged module
    merged = np.where(labels == 3, 0, labels)
    for a, b in ((labels, merged), (merged, labels)):
        match = tlm.match_modules(module_set(a), module_set(b))
        matched = match.pairs.dropna(subset=["module_a", "module_b"])
        assert len(matched) == 3
        assert (matched["module_a"] == [0, 1, 2]).all()
        lone = match.pairs[match.pairs[["module_a", "module_b"]].isna().any(axis=1)]
        assert len(lone) == 1
        assert lone[["similarity", "null_mean", "p_value"]].isna().all(axis=None)
        assert matched["similarity"].iloc[0] == (labels == 0).sum() / (merged == 0).sum()
        row = match.diff().loc[lone.index[0]]
        is_lost = len(match.a) > len(match.b)
        n_units = match.pairs.loc[lone.index[0], "n_units_a" if is_lost else "n_units_b"]
        assert row["units_lost" if is_lost else "units_gained"] == n_units > 0
        assert row["units_kept"] == row["units_gained" if is_lost else "units_lost"] == 0
        assert pd.isna(row["share_kept"]) == (not is_lost)
        assert len(match.moved_units()) == (labels == 3).sum()


def test_a_module_made_of_background_is_all_gain_and_one_dissolved_all_loss():
    before = dealt(2)
    before[::5] = -1
    after = np.where(before == -1, 2, before)
    counts = ["units_kept", "units_lost", "units_gained"]
    gained = tlm.match_modules(module_set(before), module_set(after)).diff()
    assert gained[counts].iloc[2].tolist() == [0, 0, 24]
    lost = tlm.match_modules(module_set(after), module_set(before)).diff()
    assert lost[counts].iloc[2].tolist() == [0, 24, 0]


def test_modules_without_anything_in_common_are_matched_but_with_a_p_value_of_1():
    labels = np.repeat([0, 1], [50, 70])
    a = module_set(labels, n_modules=3)  # the last one has no units
    b = module_set(1 - labels, n_modules=3)
    match = tlm.match_modules(a, b)
    assert match.pairs["module_b"].tolist() == [1, 0, 2]
    assert match.pairs["similarity"][2] == 0
    assert match.pairs["p_value"][2] == 1
    assert pd.isna(match.diff()["share_kept"][2])


def test_chance_overlaps_are_told_from_real_ones():
    a = module_set(dealt(seed=0))
    moved = dealt(seed=0)
    moved[::3] = dealt(seed=1)[::3]
    real = tlm.match_modules(a, module_set(moved)).pairs
    assert (real["p_value"] == 1 / 200).all()
    assert (real["null_mean"] < real["similarity"] - 0.2).all()
    chance = pd.concat(
        [tlm.match_modules(a, module_set(dealt(seed=seed))).pairs for seed in range(2, 22)]
    )
    assert (chance["p_value"] <= 0.1).mean() < 0.15
    # A match beside the best of a row would give 0.66.
    assert 0.4 < chance["p_value"].mean() < 0.6
    np.testing.assert_allclose(chance["similarity"].mean(), chance["null_mean"].mean(), atol=0.05)


def test_the_null_keeps_what_is_due_to_the_layers_alone():
    layers = np.repeat([0, 1, 2], WIDTHS)
    pairs = tlm.match_modules(module_set(layers), module_set(layers), n_permutations=9).pairs
    assert (pairs["similarity"] == 1).all()
    assert (pairs["null_mean"] == 1).all()
    assert (pairs["p_value"] == 1).all()


def test_a_seed_gives_one_null():
    a, b = module_set(dealt()), module_set(dealt(seed=1))
    first, again, other = (
        tlm.match_modules(a, b, n_permutations=9, seed=seed).pairs for seed in (0, 0, 1)
    )
    pd.testing.assert_frame_equal(first, again)
    assert (first["null_mean"] != other["null_mean"]).all()


@settings(max_examples=25, deadline=None)
@given(st.permutations(range(4)), st.integers(2, 10))
def test_what_the_modules_are_called_does_not_matter(called, every):
    a, labels = module_set(dealt()), dealt()
    labels[::every] = dealt(seed=every)[::every]
    plain, renamed = (
        tlm.match_modules(a, module_set(each, n_modules=4), n_permutations=9)
        for each in (labels, np.array(called)[labels])
    )
    assert [called[number] for number in plain.pairs["module_b"]] == renamed.pairs[
        "module_b"
    ].tolist()
    numbers = ["similarity", "null_mean", "p_value", "n_common", "n_units_b"]
    pd.testing.assert_frame_equal(plain.pairs[numbers], renamed.pairs[numbers])
    columns = ["layer", "hook_name", "unit", "module_a"]
    pd.testing.assert_frame_equal(plain.moved_units()[columns], renamed.moved_units()[columns])


def test_the_difference_tells_samples_categories_strength_and_layers():
    labels = np.repeat([0, 1, 0], WIDTHS)
    a = module_set(labels, sample_labels=(0, 0, 1))
    b = module_set(labels, sample_labels=(0, 1, 0), prompts=("z", "x", "y"))
    diff = tlm.match_modules(a, b).diff()
    # a: x y | z. b: y z | x.
    assert diff["samples_kept"].tolist() == [1, 0]
    assert diff["samples_lost"].tolist() == [1, 1]
    assert diff["samples_gained"].tolist() == [1, 1]
    assert diff["category_a"].tolist() == diff["category_b"].tolist() == ["c0", "c1"]
    assert diff["mean_activation_a"].tolist() == [1.5, 3.0]
    assert diff["mean_activation_b"].tolist() == [2.0, 2.0]
    np.testing.assert_allclose(diff["mean_layer_a"], [2 * 40 / 90, 1])
    moved = replace(b, unit_labels=1 - labels)
    assert tlm.match_modules(a, moved).diff()["category_b"].tolist() == ["c1", "c0"]
    np.testing.assert_allclose(
        tlm.match_modules(a, moved).diff()["mean_layer_b"], diff["mean_layer_a"]
    )


@pytest.mark.parametrize("prompts", [("x", "y", "w"), ("x", "y", "y"), ("x", "y", "z", "w")])
def test_samples_are_not_compared_unless_the_prompts_are_the_same_and_each_there_once(prompts):
    b = module_set(dealt(), sample_labels=np.arange(len(prompts)) % 2, prompts=prompts)
    diff = tlm.match_modules(module_set(dealt()), b).diff()
    columns = ["samples_kept", "samples_lost", "samples_gained"]
    assert diff[columns].isna().all(axis=None)
    twice = module_set(dealt(), prompts=("x", "y", "y"))
    assert tlm.match_modules(twice, twice).diff()[columns].isna().all(axis=None)
    bare = replace(b, samples=b.samples.drop(columns="prompt"))
    assert tlm.match_modules(bare, bare).diff()[columns].isna().all(axis=None)


@pytest.fixture(scope="module")
def architectures():
    """Two matrices of 60 samples with one structure, of 160 and 100 units, and their modules."""
    found = []
    for seed, n_units in ((0, 160), (1, 100)):
        _, samples, _ = planted_matrix(60, 160, 4, seed=0)
        matrix, _, units = planted_matrix(60, n_units, 4, seed=seed, strength=0.0)
        matrix += 1.5 * (samples[:, None] == units[None, :])
        frame = pd.DataFrame(
            {"category": [f"c{k}" for k in samples], "prompt": [f"p{row}" for row in range(60)]}
        )
        acts = tlm.ActivationMatrix.from_arrays(matrix, samples=frame)
        modules = tlm.discover(acts.select(np.arange(30)), 4)
        found.append((modules, acts.select(np.arange(30, 60))))
    return found


@unequal
def test_different_architectures_are_matched_by_profiles_of_the_same_prompts(architectures):
    (a, acts_a), (b, acts_b) = architectures
    match = tlm.match_modules(a, b, profiles=(acts_a, acts_b))
    assert match.by == "profiles"
    assert (match.pairs["category_a"] == match.pairs["category_b"]).all()
    assert set(match.pairs["category_a"]) == {"c0", "c1", "c2", "c3"}
    assert (match.pairs["similarity"] > 0.8).all()
    assert (match.pairs["p_value"] == 1 / 200).all()
    expected = np.corrcoef(module_means(a, acts_a).T, module_means(b, acts_b).T)[:4, 4:]
    np.testing.assert_allclose(match.similarity, expected)
    diff = match.diff()
    unknown = ["units_kept", "units_lost", "units_gained", "share_kept"]
    assert diff[unknown].isna().all(axis=None)
    assert match.pairs["n_common"].isna().all()
    assert (diff["samples_kept"] + diff["samples_lost"]).sum() == 30
    assert diff["samples_kept"].sum() >= 27


@unequal
def test_profiles_over_shuffled_samples_match_no_better_than_chance(architectures):
    (a, acts_a), (b, acts_b) = architectures
    acts_a, acts_b = (
        replace(acts, samples=acts.samples[["category"]]) for acts in (acts_a, acts_b)
    )
    generator = np.random.default_rng(0)
    shuffled = [acts_b.select(generator.permutation(30)) for _ in range(20)]
    pairs = pd.concat([tlm.match_modules(a, b, profiles=(acts_a, each)).pairs for each in shuffled])
    assert (pairs["p_value"] <= 0.1).mean() < 0.15
    assert pairs["p_value"].mean() > 0.4


@unequal
def test_a_module_without_units_has_a_constant_profile_and_no_correlation(architectures):
    a, acts = architectures[0]
    labels = np.where(a.unit_labels == 2, 1, a.unit_labels)
    emptied = replace(a, unit_labels=labels)
    match = tlm.match_modules(emptied, a, profiles=(acts, acts))
    assert (match.similarity[2] == 0).all()
    assert (np.abs(match.similarity[[0, 1, 3]]) > 0).all()


@unequal
def test_what_cannot_be_matched_is_refused(architectures):
    (a, acts_a), (b, acts_b) = architectures
    with pytest.raises(tlm.ModulesError, match=r"same hook points.*160.*100.*Pass profiles="):
        tlm.match_modules(a, b)
    with pytest.raises(tlm.ModulesError, match="have the modules' units"):
        tlm.match_modules(a, b, profiles=(acts_b, acts_a))
    with pytest.raises(tlm.ModulesError, match="they hold 30 and 29 samples"):
        tlm.match_modules(a, b, profiles=(acts_a, acts_b.select(np.arange(29))))
    swapped = acts_b.select([0, 1, 3, 2, *range(4, 30)])
    with pytest.raises(tlm.ModulesError, match="in the same order; sample 2 differs"):
        tlm.match_modules(a, b, profiles=(acts_a, swapped))
    few = tuple(acts.select([0, 1]) for acts in (acts_a, acts_b))
    with pytest.raises(tlm.ModulesError, match="at least 3 samples to be correlated; got 2"):
        tlm.match_modules(a, b, profiles=few)
    with pytest.raises(tlm.ModulesError, match="n_permutations should be at least 1; got 0"):
        tlm.match_modules(a, a, n_permutations=0)
    with pytest.raises(tlm.ModulesError, match="seed should lie between"):
        tlm.match_modules(a, a, seed=-1)
    match = tlm.match_modules(a, b, profiles=(acts_a, acts_b))
    with pytest.raises(tlm.ModulesError, match=r"needs two sets with the same hook points"):
        match.moved_units()


def test_a_match_shows_itself_as_the_table_of_its_pairs():
    merged = np.minimum(dealt(), 2)
    match = tlm.match_modules(module_set(merged), module_set(dealt()))
    assert repr(match).startswith("ModuleMatch(3 pairs of 3 and 4 modules by units, mean simil")
    assert "category_b" in match._repr_html_()
    with pytest.raises(AttributeError):
        match.by = "profiles"


def test_what_fine_tuning_moved_is_seen_in_a_real_model(acts, modules, prompts):
    base = tiny_model()
    same = tlm.match_modules(modules, tlm.discover(tlm.collect(base, prompts, progress=False), 3))
    assert (same.pairs["similarity"] == 1).all()

    tokens = base.to_tokens(prompts["prompt"].iloc[-1])
    optimiser = torch.optim.SGD(base.parameters(), lr=0.5)
    for _ in range(5):
        optimiser.zero_grad()
        base(tokens, return_type="loss").backward()
        optimiser.step()
    tuned_acts = tlm.collect(base, prompts, progress=False)
    tuned = tlm.discover(tuned_acts, 3)
    match = tlm.match_modules(modules, tuned)
    diff, moved = match.diff(), match.moved_units()
    assert len(diff) == 3
    assert (diff["units_kept"] + diff["units_lost"]).sum() == len(acts.units)
    assert diff["units_lost"].sum() == diff["units_gained"].sum() == len(moved) > 0
    assert (diff["samples_kept"] + diff["samples_gained"]).sum() == len(prompts)
    for row in moved.itertuples():
        at = acts.units.hook_names.index(row.hook_name) * 12 + row.unit
        assert (row.module_a, row.module_b) == (modules.unit_labels[at], tuned.unit_labels[at])
    by_profile = tlm.match_modules(modules, tuned, profiles=(acts, tuned_acts))
    expected = np.corrcoef(module_means(modules, acts).T, module_means(tuned, tuned_acts).T)
    np.testing.assert_allclose(by_profile.similarity, expected[:3, 3:], atol=1e-6)
    assert by_profile.pairs["n_common"].notna().all()
