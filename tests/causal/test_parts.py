"""Layers, heads and neurons that one category needs, against ablating each one by hand."""

import numpy as np
import pandas as pd
import pytest
import torch

import tl_modules as tlm
from tests.related.test_refusals import untyped

QUIET = {"progress": False}


@pytest.fixture(scope="module")
def questions(prompts):
    chosen = prompts.groupby("category").tail(5).reset_index(drop=True)
    return chosen.assign(answer=["cat", "dog", "red", "is", "tree"] * 2, separator=" ")


@pytest.fixture(scope="module")
def reference(model, prompts):
    return tlm.collect_reference(model, prompts, units="mlp+attn_heads", **QUIET)


@pytest.fixture(scope="module")
def parts(model, questions, reference):
    kinds = {"layer": 1, "head": 2, "neuron": 3}
    return tlm.specialised_parts(model, questions, reference, kinds=kinds, **QUIET)


def surprise(model, frame):
    """Minus the log-probability of each answer, one prompt at a time."""
    found = []
    for prompt, answer in zip(frame["prompt"], frame["answer"], strict=True):
        tokens = model.to_tokens(f"{prompt} {answer}")
        with torch.inference_mode():
            scores = model(tokens)[0, -2].double().log_softmax(-1)
        found.append(-scores[tokens[0, -1]].item())
    return np.array(found)


def test_there_is_one_target_a_kind_and_category(parts, reference):
    assert [part.label for part in parts] == [
        f"{category} {kind}s"
        for kind in ("layer", "head", "neuron")
        for category in ("animal", "code")
    ]
    assert [part.size for part in parts] == [14, 14, 2, 2, 3, 3]
    layer = parts[0].units
    assert len(set(np.asarray(layer.layers)[layer.hook])) == 1
    assert set(parts[2].units.neurons()) <= {f"blocks.{at}.attn.hook_z" for at in range(3)}
    assert set(parts[4].units.neurons()) <= {f"blocks.{at}.mlp.hook_post" for at in range(3)}


def test_the_chosen_have_the_largest_gap_between_the_categories_estimates(
    model, questions, reference, parts
):
    """The estimate of one unit: the slope of the answer's surprise as it goes to its mean."""
    units, step = reference.units, 1e-2
    slopes = []
    for at in range(len(units)):
        one = units.select(np.array([at]))
        coordinates = one.coordinates()
        name = one.hook_names[one.hook[0]]
        index, means = coordinates.index.copy(), reference.unit_means[coordinates.flat()]

        def nudged(activation, hook, index=index, means=means):
            flat = activation.flatten(2).clone()
            chosen = flat[..., index]
            flat[..., index] = chosen + step * (torch.from_numpy(means).to(chosen) - chosen)
            return flat.view_as(activation)

        before = surprise(model, questions)
        with model.hooks(fwd_hooks=[(name, nudged)]):
            after = surprise(model, questions)
        slopes.append((after - before) / step)
    slopes = np.array(slopes)
    animal = (questions["category"] == "animal").to_numpy()
    gap = slopes[:, animal].mean(1) - slopes[:, ~animal].mean(1)
    layers = np.asarray(units.layers)[units.hook]
    is_head = np.array(["attn" in name for name in units.hook_names])[units.hook]
    by_layer = np.bincount(layers, weights=gap)
    assert set(layers[parts[0].units.flat()]) == {by_layer.argmax()}
    assert set(layers[parts[1].units.flat()]) == {by_layer.argmin()}
    for kind, part, other in ((is_head, *parts[2:4]), (~is_head, *parts[4:6])):
        ranked = np.flatnonzero(kind)[np.argsort(-gap[kind])]
        assert set(part.units.flat()) == set(ranked[: part.size])
        assert set(other.units.flat()) == set(ranked[-other.size :])


def test_they_stand_beside_modules_with_controls_of_their_own_kind(
    model, questions, modules, parts
):
    options = {"metric": "answer_logprob", "n_controls": 2, **QUIET}
    table = tlm.module_effects(model, [*modules, *parts], questions, **options)
    before = surprise(model, questions)
    for part in parts:
        with part.ablated(model, positions="content"):
            rises = surprise(model, questions) - before
        for category, group in questions.groupby("category"):
            row = table.loc[(table["module"] == part.label) & (table["category"] == category)]
            assert row["effect"].item() == pytest.approx(rises[group.index].mean(), abs=1e-4)
            assert row["own"].item() == (category == part.category)


def test_controls_are_random_parts_of_the_same_kind(parts):
    generator = np.random.default_rng(0)
    for part in parts:
        for control in part.controls(10, generator):
            assert control.size == part.size
            if part.kind == "neuron":
                np.testing.assert_array_equal(control.units.counts(), part.units.counts())
            else:
                of_kind = part.kind == "layer" or all(
                    "attn" in name for name in control.units.neurons()
                )
                assert of_kind
    drawn = {tuple(control.units.flat()) for control in parts[2].controls(40, generator)}
    assert len(drawn) == 14  # of the 15 pairs of six heads all but this one
    assert tuple(parts[2].units.flat()) not in drawn


def test_the_loss_can_choose_too(model, prompts, reference):
    (first, *_) = tlm.specialised_parts(
        model, prompts, reference, kinds=["head"], metric="loss", **QUIET
    )
    assert first.size == 6  # all there are, where eight are asked for
    assert repr(first) == "Parts(animal heads: 6 units, category animal)"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"kinds": ["neurons"]}, "kinds should be one of 'layer', 'head', 'neuron'"),
        ({"kinds": {"head": 0}}, r"kinds\['head'\] should be at least 1"),
        ({"metric": "answer_accuracy"}, "metric should be one of 'loss', 'answer_logprob'"),
        ({"prompts": ["the cat sat"]}, "prompts should have two categories or more"),
    ],
)
def test_what_cannot_be_is_refused(model, questions, reference, change, said):
    given = {"prompts": questions, "reference": reference, **QUIET}
    with pytest.raises(tlm.ModulesError, match=said):
        tlm.specialised_parts(model, **given | change)


def test_a_reference_of_another_site_and_another_model_are_refused(
    model, other_model, prompts, questions, parts
):
    neurons = tlm.collect_reference(model, prompts, **QUIET)
    with pytest.raises(tlm.ModulesError, match="should hold neurons and heads"):
        tlm.specialised_parts(model, questions, neurons, **QUIET)
    with pytest.raises(tlm.ModulesError):
        parts[0].attach(other_model)


def test_the_frame_is_not_changed(model, questions, reference):
    before = questions.copy()
    tlm.specialised_parts(model, questions, reference, **QUIET)
    pd.testing.assert_frame_equal(questions, before)


def test_no_two_controls_are_the_same_and_there_are_no_more_than_others(parts):
    layers = parts[0].controls(39, np.random.default_rng(0))
    assert len(layers) == 2  # the model has three
    heads = parts[2].controls(39, np.random.default_rng(0))
    assert len({tuple(control.units.flat()) for control in heads}) == len(heads) == 14


def test_where_no_others_are_there_is_no_p_value(model, questions, reference):
    kinds = {"layer": 3, "head": 6, "neuron": 36}
    parts = tlm.specialised_parts(model, questions, reference, kinds=kinds, **QUIET)
    table = tlm.module_effects(model, parts[::2], questions, n_controls=3, **QUIET)
    numbers = table[["p_value", "control_mean", "selectivity_p_value"]]
    neurons = table["module"].str.endswith("neurons")
    assert numbers[~neurons].isna().all(axis=None)
    assert (numbers.loc[neurons, ["p_value", "selectivity_p_value"]] == 1).all(axis=None)


def test_estimates_that_are_no_numbers_are_refused(model, questions, reference):
    infinite = ("blocks.1.mlp.hook_post", lambda activation, hook: activation * float("inf"))
    with model.hooks(fwd_hooks=[infinite]), pytest.raises(tlm.ModulesError, match="finite"):
        tlm.specialised_parts(model, questions, reference, **QUIET)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"kinds": {"head": 1.5}}, r"kinds\['head'\] should be a whole number; got 1.5. 8 is"),
        ({"kinds": {"head": None}}, r"kinds\['head'\] should be a whole number; got None"),
        ({"kinds": None}, "kinds should hold one or more of 'layer', 'head', 'neuron'; got None"),
        ({"kinds": []}, r"kinds should hold one or more of .*; got \[\]. Leave it out"),
        ({"kinds": [["head"]]}, r"kinds should be one of .*; got list"),
        (
            {"reference": None},
            "an object with units and their means; got None. Pass what tlm.collect",
        ),
    ],
)
def test_what_names_no_parts_is_refused(model, questions, reference, change, said):
    given = {"prompts": questions, "reference": reference, **QUIET} | change
    with untyped(), pytest.raises(tlm.ModulesError, match=said):
        tlm.specialised_parts(model, **given)
