"""Effects by labels that are not certain: by hand, beside certain labels, and what is refused."""

import numpy as np
import pandas as pd
import pytest

import tl_modules as tlm
from benchmarks.calibration.planted import PlantedModel
from tests.tables.test_label_draws import Given
from tl_modules.causal.effect_numbers import EffectNumbers
from tl_modules.tables.label_draws import N_DRAWS, LabelDraws

QUIET = {"progress": False, "n_controls": 19}


def numbers(*draws, rises):
    """Numbers of a target of category a, and of one control, which does nothing."""
    labels = LabelDraws.drawn(Given(*draws), ["p"] * len(draws[0]), seed=0)
    runs = np.stack([rises, np.zeros(len(rises))])
    return EffectNumbers(labels, np.ones(len(rises)), runs, "a", 0, 1.0, None)


def test_effects_and_selectivity_are_means_over_the_draws():
    found = numbers(list("aabb"), list("abab"), rises=np.array([1.0, 2.0, 3.0, 5.0]))
    table = found.table().set_index("category")
    # Half of the draws each: a is prompts 1 and 2, or 1 and 3; b the others.
    assert table["effect"].to_dict() == {"a": (1.5 + 2.0) / 2, "b": (4.0 + 3.5) / 2}
    assert table["selectivity"].iloc[0] == ((1.5 - 4.0) + (2.0 - 3.5)) / 2
    assert table["n"].tolist() == [2, 2]
    # Selectivities of -2.5 and -1.5, ten times each: a variance of 0.25 x 20 / 19, times 1.05.
    between = 0.25 * 20 / 19 * 1.05
    shares = found.label_shares()
    # A bootstrap of two values d apart has the variance d^2 / 8; there are two categories.
    within = ((1 + 4) / 8 + (4 + 9) / 8) / 2
    expected = between / (between + within)
    assert shares["selectivity_label_share"].iloc[0] == pytest.approx(expected, rel=0.05)
    # Effects of 1.5 and 2, and of 4 and 3.5; the two values are 1 and 2, or 2 and 3 apart.
    within_each = np.array([(1 + 4) / 8, (4 + 9) / 8]) / 2
    expected = between / 4 / (between / 4 + within_each)
    np.testing.assert_allclose(shares["label_share"], expected, rtol=0.05)


def test_a_category_that_vanishes_in_a_draw_is_left_out_and_its_prompts_with_it():
    with pytest.warns(UserWarning, match="left out: 'c'"):
        found = numbers(list("abcb"), list("abbb"), rises=np.array([1.0, 2.0, 6.0, 4.0]))
    table = found.table().set_index("category")
    # b is prompts 2 and 4, or 2 to 4; the third prompt counts for nothing where it is c's.
    assert table["effect"].to_dict() == {"a": 1.0, "b": (3.0 + 4.0) / 2}
    assert table["selectivity"].tolist() == [1.0 - 3.5] * 2
    assert table.loc["b", "ci_high"] > 4.0
    assert np.isnan(table.loc["a", ["ci_low", "ci_high"]].astype(float)).all()  # a single prompt


def test_the_sign_flips_weigh_prompts_by_their_share_of_the_category():
    found = numbers(list("aabb"), list("abab"), rises=np.array([1.0, 2.0, 3.0, 5.0]))
    # Prompt 1 always counts, 2 and 3 half the time: sums of 1, 1 and 1.5 with all signs.
    sums = [abs(s + t + 1.5 * u) for s in (1, -1) for t in (1, -1) for u in (1, -1)]
    expected = np.mean([each >= 3.5 for each in sums])
    assert found.table().set_index("category")["sign_flip_p"]["a"] == expected


def test_the_sign_flips_weigh_prompts_less_in_a_larger_category():
    found = numbers(list("abab"), list("abbb"), rises=np.array([1.0, 1.0, -2.2, 1.0]))
    # b is prompts 2 and 4, or 2 to 4: the third has (0 + 1/3) / 2, the others (1/2 + 1/3) / 2 each.
    # In units of the latter, the sum is 1 - 0.4 x 2.2 + 1 = 1.12, and 1 - 1 + 0.88 is less.
    assert found.table().set_index("category")["sign_flip_p"]["b"] == 4 / 8


def test_an_interval_is_wider_the_less_certain_the_labels_are():
    rises = np.random.default_rng(0).normal(size=40) + np.repeat([1.0, 0.0], 20)
    truth = np.repeat(["a", "b"], 20)
    swapped = np.where(truth == "a", "b", "a")
    widths = []
    for n_uncertain in (0, 4, 12):
        generator = np.random.default_rng(1)
        is_uncertain = np.arange(40) % 20 < n_uncertain
        draws = [
            np.where(is_uncertain & (generator.random(40) < 0.5), swapped, truth).tolist()
            for _ in range(N_DRAWS)
        ]
        found = numbers(*draws, rises=rises).table()
        widths.append(found["selectivity_ci_high"][0] - found["selectivity_ci_low"][0])
    assert np.diff(widths).min() > 0


class Certain:
    """The labels of a frame, as certain ones."""

    def __init__(self, prompts):
        self.labels = prompts["category"].tolist()

    def draw_labels(self, prompts, n_draws, seed):
        """The same each time."""
        self.seed = seed
        return np.array([self.labels] * n_draws, dtype=object)


@pytest.fixture(scope="module")
def planted_model():
    return PlantedModel()


@pytest.fixture(scope="module")
def planted_modules(planted_model):
    """The module of each task's neurons."""
    acts = tlm.collect(planted_model, planted_model.prompts(6), progress=False)
    samples = acts.samples
    return [
        tlm.Module(
            number,
            acts.units.select(planted_model.owner == number),
            samples[samples["category"] == f"task{number}"],
            means=acts,
        )
        for number in range(3)
    ]


@pytest.mark.parametrize("n_controls", [3, None])
def test_certain_labels_give_the_numbers_of_categories_to_the_bit(
    planted_model, planted_modules, n_controls
):
    options = {"progress": False, "n_controls": n_controls, "method": "zero", "batch_size": 400}
    options["seed"] = 3
    held_out = planted_model.prompts(3, seed=1)
    known = tlm.module_effects(planted_model, planted_modules, held_out, **options)
    bare = held_out.drop(columns="category")
    options["labels"] = certain = Certain(held_out)
    found = tlm.module_effects(planted_model, planted_modules, bare, **options)
    assert certain.seed == 3
    assert (found["n_draws"] == N_DRAWS).all()
    assert (found["label_share"] == 0).all()
    assert (found["selectivity_label_share"] == 0).all()
    assert set(found) - set(known) == {"n_draws", "label_share", "selectivity_label_share"}
    pd.testing.assert_frame_equal(found[list(known)], known, check_exact=True)


@pytest.mark.parametrize("n_controls", [19, pytest.param(None, marks=pytest.mark.slow)])
def test_annotations_take_the_place_of_categories_and_carry_their_uncertainty(
    planted_model, planted_modules, n_controls
):
    held_out = planted_model.prompts(8, seed=1)
    truth = held_out["category"].tolist()
    names = sorted(set(truth))
    # Each errs on every fourth prompt, for the next label, and no two on the same prompt.
    answers = [
        [
            names[(names.index(own) + 1) % 3] if row % 4 == by else own
            for row, own in enumerate(truth)
        ]
        for by in range(3)
    ]
    annotations = tlm.annotate(held_out, answers, progress=False)
    assert annotations.table["category"].tolist() == truth
    options = {"progress": False, "n_controls": n_controls, "method": "zero", "batch_size": 400}
    known = tlm.module_effects(planted_model, planted_modules, held_out, **options)
    options["labels"] = annotations
    found = tlm.module_effects(planted_model, planted_modules, held_out, **options)
    assert set(found["category"]) == set(names)
    one, other = (each.drop_duplicates("module") for each in (found, known))
    assert (one["selectivity_label_share"] > 0).all()
    widths = [each["selectivity_ci_high"] - each["selectivity_ci_low"] for each in (one, other)]
    assert (widths[0].to_numpy() > widths[1].to_numpy()).all()
    # True modules are selective by uncertain labels too, and harm less by labels that err.
    assert (tlm.verdicts(found)["verdict"] == tlm.verdicts(known)["verdict"]).all()
    assert (one["selectivity"].to_numpy() < other["selectivity"].to_numpy()).all()
    drawn = annotations.draw_labels(held_out["prompt"].tolist(), N_DRAWS, 0) == "task0"
    assert found["n"][found["category"] == "task0"].iloc[0] == round(drawn.sum(axis=1).mean())
    assert tlm.selectivity(found).n_permutations == 6


def test_a_category_that_is_no_prompts_likeliest_label_is_tested_all_the_same(
    planted_model, planted_modules
):
    held_out = planted_model.prompts(3, seed=1)
    truth = held_out["category"].tolist()
    first = truth.index("task0")
    # Of task0's three prompts another one is task1's in each draw, or two are.
    draws = []
    for number in range(3):
        at = [first + (number + step) % 3 for step in range(2)]
        draws.append(["task1" if row in at else own for row, own in enumerate(truth)])
    # No warning: the own category is among the labels, and has a selectivity.
    found = tlm.module_effects(
        planted_model,
        planted_modules,
        held_out,
        labels=Given(*draws),
        n_controls=2,
        method="zero",
        progress=False,
    )
    assert found["selectivity"].notna().all()
    assert found.loc[found["category"] == "task0", "n"].tolist() == [1, 1, 1]


def test_labels_of_other_prompts_are_refused(model, modules, prompts):
    answers = [prompts["category"].tolist()] * 3
    annotations = tlm.annotate(prompts, answers, progress=False)
    with pytest.raises(tlm.ModulesError, match="should be the annotated ones, in their order"):
        tlm.module_effects(model, modules, prompts[::-1], labels=annotations, **QUIET)
