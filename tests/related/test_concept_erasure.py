"""LEACE against its theorem worked out by hand, its library, and what it promises."""

import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

import tl_modules as tlm
from tests.related.test_refusals import untyped
from tl_modules.interventions.positions import Where
from tl_modules.related.covariances import Covariances
from tl_modules.units import site_units

POINT = "blocks.1.hook_resid_post"
QUIET = {"progress": False}


@pytest.fixture(scope="module")
def sets(prompts):
    return [prompts.loc[prompts["category"] == name] for name in ("animal", "code")]


@pytest.fixture(scope="module")
def erasure(model, sets):
    return tlm.related.leace(model, *sets, POINT, category="animal", **QUIET)


def tokens_at(model, sets, name, first=1):
    """Every prompt's tokens at a hook point, one prompt at a time, and their labels."""
    found, labels = [], []
    for label, prompts in zip((1.0, 0.0), sets, strict=True):
        for prompt in prompts["prompt"]:
            with torch.inference_mode():
                cache = model.run_with_cache(model.to_tokens(prompt))[1]
            found.append(cache[name][0, first:].flatten(1).double())
            labels += [label] * len(found[-1])
    return torch.cat(found), torch.tensor(labels)


def gap(model, sets, name):
    """How far the means of both sets' tokens lie apart, coordinate by coordinate."""
    tokens, labels = tokens_at(model, sets, name)
    return (tokens[labels == 1].mean(0) - tokens[labels == 0].mean(0)).abs().numpy()


def test_a_case_worked_out_by_hand():
    # Covariance of x in proportion 2 1 / 1 1, and of x with z in proportion 1, 0: the theorem's
    # projection takes (x1 - m1) - (x2 - m2) out of x1 and leaves x2.
    apart = torch.tensor([[2.0, 1.0], [0.0, -1.0], [0.0, 1.0], [-2.0, -1.0]]).double()
    mean = torch.tensor([10.0, 5.0]).double()
    scatter, labels = apart.T @ apart, np.array([1.0, 1.0, 0.0, 0.0])
    covariances = Covariances("here", 2, np.arange(2), 4, mean, scatter, apart, False, False)
    edit = covariances.edit(labels)
    erased = edit.hook(Where())[1]((apart + mean)[None])[0]
    expected = torch.tensor([[11.0, 6.0], [9.0, 4.0], [11.0, 6.0], [9.0, 4.0]]).double()
    torch.testing.assert_close(erased, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("shrinkage", [True, False])
@pytest.mark.parametrize("spares_first", [True, False])
def test_it_is_the_librarys_eraser_of_all_tokens(model, sets, shrinkage, spares_first):
    from concept_erasure import LeaceEraser

    options = {"shrinkage": shrinkage, "spares_first": spares_first, **QUIET}
    erasure = tlm.related.leace(model, *sets, POINT, batch_size=3, **options)
    x, z = tokens_at(model, sets, POINT, int(spares_first))
    eraser = LeaceEraser.fit(x, z, shrinkage=shrinkage)
    tokens = model.to_tokens(sets[0]["prompt"].iloc[4])
    with torch.inference_mode():
        before = model.run_with_cache(tokens)[1][POINT]
        with erasure.ablated(model):
            after = model.run_with_cache(tokens)[1][POINT]
    expected = eraser(before.double())
    expected[:, : int(spares_first)] = before[:, : int(spares_first)]
    torch.testing.assert_close(after.double(), expected, atol=1e-4, rtol=1e-4)


def test_no_linear_classifier_tells_the_sets_apart_any_more(model, sets, erasure):
    # By theorem 3.1 of the paper, which holds exactly if the means are equal.
    assert gap(model, sets, POINT).max() > 0.1
    with erasure.ablated(model):
        assert gap(model, sets, POINT).max() < 1e-4


def test_several_hook_points_are_each_fitted_under_the_erasures_before(model, sets):
    names = [f"blocks.{layer}.hook_resid_post" for layer in (2, 0, 1)]
    erasure = tlm.related.leace(model, *sets, names, **QUIET)
    assert [edit.hook_name for edit in erasure.edits] == sorted(names)
    with erasure.ablated(model):
        for name in names:
            assert gap(model, sets, name).max() < 1e-4
    # Fitted on the model as it is, the last one would not do.
    alone = tlm.related.leace(model, *sets, names[0], **QUIET)
    with replace(erasure, edits=(*erasure.edits[:2], *alone.edits)).ablated(model):
        assert gap(model, sets, names[0]).max() > 1e-2


@pytest.mark.parametrize("site", ["mlp", "attn_heads"])
def test_only_a_modules_own_units_are_changed(model, sets, modules, site):
    units = modules[0].units if site == "mlp" else site_units(model, site).select(np.array([1, 4]))
    erasure = tlm.related.leace(model, *sets, units, **QUIET)
    coordinates = units.coordinates()
    assert len(erasure.edits) > 1
    with erasure.ablated(model):
        for hook, rows in coordinates.by_hook():
            apart = gap(model, sets, units.hook_names[hook])
            chosen = coordinates.index[rows]
            assert apart[chosen].max() < 1e-4
            assert np.delete(apart, chosen).max() > 1e-2
    name = erasure.edits[0].hook_name
    tokens = model.to_tokens(sets[0]["prompt"].iloc[4])
    with torch.inference_mode():
        before = model.run_with_cache(tokens)[1][name].flatten(2)
        with erasure.ablated(model):
            after = model.run_with_cache(tokens)[1][name].flatten(2)
    others = np.setdiff1d(np.arange(before.shape[-1]), coordinates.neurons()[name])
    torch.testing.assert_close(before[..., others], after[..., others])


def test_controls_are_the_same_fit_with_shuffled_labels(model, prompts, sets, erasure):
    controls = erasure.controls(20, np.random.default_rng(0))
    assert len({tuple(control.labels) for control in controls}) > 10
    control = controls[0]
    assert sorted(control.labels) == sorted(erasure.labels)
    together = [*sets[0]["prompt"], *sets[1]["prompt"]]
    halves = [
        [text for text, label in zip(together, control.labels, strict=True) if label == wanted]
        for wanted in (1, 0)
    ]
    again = tlm.related.leace(model, *halves, POINT, **QUIET)
    found, expected = (each.edits[0] for each in (control, again))
    np.testing.assert_allclose(found.read @ found.write, expected.read @ expected.write, atol=1e-6)
    np.testing.assert_allclose(found.centre, expected.centre, atol=1e-6)


def test_with_a_key_value_cache_each_new_token_is_erased_and_no_first_one(model, sets, erasure):
    prompt = sets[0]["prompt"].iloc[4]
    options = {"max_new_tokens": 6, "do_sample": False, "verbose": False, "return_type": "tokens"}
    with erasure.ablated(model), torch.inference_mode():
        cached, whole = (
            model.generate(model.to_tokens(prompt), use_past_kv_cache=use, **options)
            for use in (True, False)
        )
    assert cached.tolist() == whole.tolist()


def test_it_stands_beside_modules_and_says_what_it_is(model, modules, prompts, erasure):
    table = tlm.module_effects(model, [*modules, erasure], prompts, n_controls=3, **QUIET)
    own = table.loc[table["module"] == "leace"]
    assert own.loc[own["own"], "category"].tolist() == ["animal"]
    assert own["n_units"].eq(1).all()
    assert own["effect"].abs().max() > 1e-3
    assert repr(erasure) == (
        f"ConceptErasure(1 directions at 1 hook points ({POINT}), category animal)"
    )


def test_sets_that_do_not_differ_are_left_as_they_are(model, sets):
    same = tlm.related.leace(model, sets[0], sets[0], POINT, **QUIET)
    assert same.size == 0
    tokens = model.to_tokens(sets[0]["prompt"].iloc[4])
    with torch.inference_mode(), same.ablated(model):
        after = model(tokens)
    torch.testing.assert_close(after, model(tokens))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"against": ["the cat"]}, "against should hold at least two prompts; got 1"),
        ({"at": "blocks.9.hook_resid_post"}, r"has none named \['blocks.9.hook_resid_post'\]"),
        ({"at": []}, r"at should be units, or names of hook points; got \[\]"),
    ],
)
def test_what_cannot_be_is_refused(model, sets, change, said):
    given = {"towards": sets[0], "against": sets[1], "at": POINT, **QUIET}
    with pytest.raises(tlm.ModulesError, match=said):
        tlm.related.leace(model, **given | change)


def test_another_models_units_and_another_model_are_refused(
    model, other_model, modules, sets, erasure
):
    with pytest.raises(tlm.ModulesError):
        tlm.related.leace(other_model, *sets, modules[0].units, **QUIET)
    with pytest.raises(tlm.ModulesError, match="ConceptErasure was made from 'another'"):
        replace(erasure, model="another").attach(model)


def test_activations_that_overflow_are_refused(model, sets):
    infinite = (POINT, lambda activation, hook: activation * float("inf"))
    with model.hooks(fwd_hooks=[infinite]), pytest.raises(tlm.ModulesError, match="finite"):
        tlm.related.leace(model, *sets, POINT, **QUIET)


def test_without_the_library_it_says_what_to_install(model, sets, monkeypatch):
    monkeypatch.setitem(sys.modules, "concept_erasure", None)
    with pytest.raises(tlm.ModulesError, match="pip install concept-erasure"):
        tlm.related.leace(model, *sets, POINT, **QUIET)


def test_a_few_prompts_against_many_are_erased_too(model, sets):
    few, many = sets[0].iloc[6:], [text for text in sets[1]["prompt"][2:] for _ in range(40)]
    erasure = tlm.related.leace(model, few, many, POINT, **QUIET)
    assert erasure.size == 1
    with erasure.ablated(model):
        assert gap(model, [few, sets[1][2:]], POINT).max() < 1e-3


def test_a_module_says_where_as_its_units_do(model, sets, modules):
    one, other = (
        tlm.related.leace(model, *sets, at, **QUIET) for at in (modules[0], modules[0].units)
    )
    assert [edit.hook_name for edit in one.edits] == [edit.hook_name for edit in other.edits]
    np.testing.assert_array_equal(one.edits[0].read, other.edits[0].read)


def test_an_attention_pattern_is_refused(model, sets):
    with pytest.raises(tlm.ModulesError, match="should have a batch and a position axis"):
        tlm.related.leace(model, *sets, "blocks.0.attn.hook_pattern", **QUIET)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"at": 3}, "at should be units, or names of hook points; got 3"),
        ({"at": None}, "at should be units, or names of hook points; got None"),
        ({"at": [3]}, r"at should be units, or names of hook points; got \[3\]"),
        ({"towards": None}, "towards should be a list of strings, .*; got None"),
        ({"against": iter(["a"])}, "against should be a list of strings.*; got a generator"),
    ],
)
def test_what_is_neither_prompts_nor_a_place_is_refused(model, sets, change, said):
    given = {"towards": sets[0], "against": sets[1], "at": POINT, **QUIET}
    with untyped(), pytest.raises(tlm.ModulesError, match=said):
        tlm.related.leace(model, **given | change)


def test_a_whole_set_of_modules_is_no_place(model, sets, modules):
    with untyped(), pytest.raises(tlm.ModulesError, match=r"at should be units.*got ModuleSet\("):
        tlm.related.leace(model, *sets, modules, **QUIET)
