"""Effects by labels that are not certain: by hand, beside certain labels, and what is refused."""

import itertools

import numpy as np
import pandas as pd
import pytest

import tl_modules as tlm
from benchmarks.calibration.planted import PlantedModel
from tests.tables.test_uncertain_labels import Given
from tl_modules.causal.effect_numbers import EffectNumbers
from tl_modules.tables.uncertain_labels import Refits, UncertainLabels

QUIET = {"progress": False, "n_controls": 19}


def numbers(given, rises):
    """Numbers of a target of category a, and of one control, which does nothing."""
    labels = UncertainLabels.of(given, ["p"] * len(rises), seed=0)
    runs = np.stack([rises, np.zeros(len(rises))])
    return EffectNumbers(labels, np.ones(len(rises)), runs, "a", 0, 1.0, None)


def test_effects_and_selectivity_are_coefficients_of_the_regression():
    given = Given([[1, 0], [0.75, 0.25], [0.25, 0.75], [0, 1]])
    table = numbers(given, np.array([4.0, 0.0, 0.0, 0.0])).table().set_index("category")
    # Worked out in tests/tables/test_uncertain_labels.py.
    assert table["effect"].to_dict() == pytest.approx({"a": 2.6, "b": -0.6})
    assert table["selectivity"].iloc[0] == pytest.approx(3.2)
    assert table["loss"].to_dict() == pytest.approx({"a": 1.0, "b": 1.0})
    assert table["n"].tolist() == [2, 2]
    assert table["selectivity_p_value"].iloc[0] == 0.5  # of one control
    # One prompt has a rise: half of all signs give as large a sum.
    assert table["sign_flip_p"].tolist() == [1.0, 1.0]


def test_the_sign_flips_weigh_prompts_by_their_coefficients():
    given = Given([[1, 0], [0.75, 0.25], [0.25, 0.75], [0, 1]])
    rises = np.array([1.0, 2.0, 3.0, 5.0])
    found = numbers(given, rises).table().set_index("category")
    coefficients = np.linalg.inv([[13, 3], [3, 13]]) @ given.probabilities.T * 8
    parts = coefficients[0] * rises
    signs = np.array(list(itertools.product([1, -1], repeat=4)))
    expected = np.mean(np.abs(signs @ parts) >= abs(parts.sum()) - 1e-9)
    assert found["sign_flip_p"]["a"] == expected


def test_an_interval_is_wider_the_less_certain_the_labels_are():
    rises = np.random.default_rng(0).normal(size=40) + np.repeat([1.0, 0.0], 20)
    widths = []
    for sure in (1.0, 0.9, 0.7):
        row = [sure, 1 - sure]
        found = numbers(Given([row] * 20 + [row[::-1]] * 20), rises).table()
        widths.append(found["selectivity_ci_high"][0] - found["selectivity_ci_low"][0])
    assert np.diff(widths).min() > 0.1


class Certain:
    """The labels of a frame, as certain ones."""

    def __init__(self, prompts):
        codes, self.labels = pd.factorize(prompts["category"])
        self.probabilities = np.eye(len(self.labels))[codes]

    def refitted(self, prompts, n_refits, seed):
        """The same each time."""
        self.seed = seed
        return Refits(np.ones((n_refits, len(prompts))), np.stack([self.probabilities] * n_refits))


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
    pd.testing.assert_frame_equal(found, known, check_exact=True)
    assert certain.seed == 3


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
    widths = [each["selectivity_ci_high"] - each["selectivity_ci_low"] for each in (one, other)]
    assert (widths[0].to_numpy() > widths[1].to_numpy()).all()
    # True modules are selective by uncertain labels too, and as much.
    assert (tlm.verdicts(found)["verdict"] == tlm.verdicts(known)["verdict"]).all()
    np.testing.assert_allclose(one["selectivity"], other["selectivity"], rtol=0.1)
    expected = annotations.probabilities[:, annotations.labels.index("task0")].sum()
    assert found["n"][found["category"] == "task0"].iloc[0] == round(expected)
    assert tlm.selectivity(found).n_permutations == 6


def test_a_category_that_is_no_prompts_likeliest_label_is_tested_all_the_same(
    planted_model, planted_modules
):
    held_out = planted_model.prompts(3, seed=1)
    truth = held_out["category"].tolist()
    names = sorted(set(truth))
    labels = Certain(held_out)
    labels.labels = names
    # Each of task0's three prompts is more probably task1's.
    rows = {name: np.eye(3)[at] for at, name in enumerate(names)} | {"task0": [0.4, 0.6, 0.0]}
    labels.probabilities = np.array([rows[own] for own in truth])
    # No warning: the own category is among the labels, and has a selectivity.
    found = tlm.module_effects(
        planted_model,
        planted_modules,
        held_out,
        labels=labels,
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
