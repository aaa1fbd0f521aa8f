"""EigenShift against an output layer that was decomposed and put together again by hand."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

import tl_modules as tlm
from tests.conftest import LEGACY, tiny_model
from tl_modules.models.output_layer import output_layer, output_states


@pytest.fixture(scope="module")
def sets(prompts):
    return [prompts.loc[prompts["category"] == name] for name in ("animal", "code")]


@pytest.fixture(scope="module")
def shift(model, sets):
    options = {"n_components": 3, "n_new_tokens": 0, "category": "animal", "progress": False}
    return tlm.related.eigenshift(model, *sets, factor=0.25, **options)


def damped_logits(model, shift, tokens):
    """The model's logits, had its output layer the chosen singular values times the factor."""
    layer = output_layer(model)
    u, s, vt = torch.linalg.svd(layer.weight.double(), full_matrices=False)
    s[torch.from_numpy(shift.components)] *= shift.factor
    with torch.inference_mode():
        logits, cache = model.run_with_cache(tokens)
    state = cache[layer.hook_name].double()
    return logits.double() + state @ ((u * s) @ vt - layer.weight.double()).T


def test_the_hook_is_the_output_layer_with_scaled_singular_values(model, prompts, shift):
    tokens = model.to_tokens(prompts["prompt"][5])
    before = model(tokens)
    with shift.ablated(model), torch.inference_mode():
        found = model(tokens)
    torch.testing.assert_close(model(tokens), before)
    expected = damped_logits(model, shift, tokens)
    assert not torch.allclose(found, before, atol=1e-2)
    torch.testing.assert_close(found.double(), expected, atol=1e-5, rtol=1e-4)
    with shift.attach(model):
        torch.testing.assert_close(model(tokens), found)
    torch.testing.assert_close(model(tokens), before)


@pytest.mark.skipif(not LEGACY, reason="a HookedTransformer's own final norm has weights")
def test_weights_of_a_final_norm_count_as_the_output_layers(sets):
    model = tiny_model(seed=3)
    with torch.no_grad():
        model.ln_final.w.copy_(torch.linspace(0.5, 2, 16))
    shift = tlm.related.eigenshift(model, *sets, n_components=2, n_new_tokens=0, progress=False)
    tokens = model.to_tokens(sets[0]["prompt"].iloc[3])
    with shift.ablated(model), torch.inference_mode():
        found = model(tokens)
    expected = damped_logits(model, shift, tokens)
    torch.testing.assert_close(found.double(), expected, atol=1e-5, rtol=1e-4)


def test_components_are_ranked_by_how_much_more_the_first_set_projects_on_them(model, sets, shift):
    layer = output_layer(model)
    means = []
    for prompts in sets:
        states = []
        for prompt in prompts["prompt"]:
            cache = model.run_with_cache(model.to_tokens(prompt))[1]
            states.append(cache[layer.hook_name][0, :-1].detach().double().mean(0).numpy())
        means.append(np.stack(states) @ shift.directions)
    towards, against = (each.mean(axis=0) for each in means)
    table = shift.table
    assert table["difference"].is_monotonic_decreasing
    assert (towards + against >= 0).all()
    assert sorted(shift.components) == sorted(table["component"][:3])
    by_component = table.set_index("component").sort_index()
    np.testing.assert_allclose(by_component["towards"], towards, atol=1e-5)
    np.testing.assert_allclose(by_component["difference"], towards - against, atol=1e-5)
    spread = np.sqrt(sum(each.var(axis=0, ddof=1) / len(each) for each in means))
    np.testing.assert_allclose(by_component["z"], (towards - against) / spread, rtol=1e-3)
    s = torch.linalg.svdvals(layer.weight.double())
    np.testing.assert_allclose(shift.singular_values, s.numpy(), rtol=1e-6)


def test_the_other_way_round_other_components_are_scaled(model, sets, shift):
    other = tlm.related.eigenshift(
        model, *sets[::-1], n_components=3, n_new_tokens=0, progress=False
    )
    assert not np.isin(other.components, shift.components).any()
    found, again = (each.table.set_index("component").sort_index() for each in (shift, other))
    np.testing.assert_allclose(found["difference"], -again["difference"], atol=1e-6)


def test_states_of_new_tokens_are_those_that_wrote_them(model, sets):
    layer, prompt = output_layer(model), sets[0]["prompt"].iloc[2]
    tokens = model.to_tokens(prompt)
    states = []
    for _ in range(4):
        logits, cache = model.run_with_cache(tokens)
        states.append(cache[layer.hook_name][0, -1].detach().double().numpy())
        tokens = torch.cat([tokens, logits[:, -1:].argmax(-1)], dim=1)
        if int(tokens[0, -1]) == model.tokenizer.eos_token_id:
            break
    options = {"batch_size": 2, "max_tokens": None, "progress": False}
    found = output_states(model, layer, [prompt, "two three"], n_new_tokens=4, **options)
    np.testing.assert_allclose(found[0], np.mean(states, axis=0), atol=1e-5)


def test_controls_scale_as_many_components_of_similar_singular_values(shift):
    controls = shift.controls(50, np.random.default_rng(0))
    for control in controls:
        assert control.size == shift.size
        assert control.factor == shift.factor
        assert len(set(control.components)) == control.size
    assert len({tuple(control.components) for control in controls}) > 20
    # One of the eight largest of 400 singular values: drawn from those eight, itself among them.
    wide = replace(
        shift,
        singular_values=np.arange(400.0),
        directions=np.zeros((16, 400)),
        components=np.array([395]),
    )
    drawn = {int(each.components[0]) for each in wide.controls(100, np.random.default_rng(0))}
    assert drawn == set(range(392, 400))
    every = replace(shift, components=np.arange(16))
    (same,) = every.controls(1, np.random.default_rng(0))
    assert same.components.tolist() == list(range(16))


def test_it_stands_beside_modules_in_one_table(model, modules, prompts, shift):
    options = {"n_controls": 4, "progress": False, "seed": 3, "positions": "all"}
    table = tlm.module_effects(model, [*modules, shift], prompts, **options)
    alone = tlm.module_effects(model, modules, prompts, **options)
    own = table.loc[table["module"] == "eigenshift"].reset_index(drop=True)
    only = [name for name in alone if "_holm" not in name and "_bh" not in name]
    pd.testing.assert_frame_equal(
        table.loc[table["module"] != "eigenshift", only].astype({"module": int}), alone[only]
    )
    assert own.loc[own["own"], "category"].tolist() == ["animal"]
    assert own["n_units"].eq(3).all()
    for _, row in own.iterrows():
        rises = []
        for prompt in prompts.loc[prompts["category"] == row["category"], "prompt"]:
            tokens = model.to_tokens(prompt)
            losses = []
            for logits in (damped_logits(model, shift, tokens), model(tokens).double()):
                logprobs = logits[0, :-1].log_softmax(-1)
                losses.append(-logprobs.gather(1, tokens[0, 1:, None]).mean().item())
            rises.append(losses[0] - losses[1])
        assert row["effect"] == pytest.approx(np.mean(rises), abs=1e-5)
        assert row["p_value"] in {k / 5 for k in range(1, 6)}


def test_the_factor_one_changes_nothing(model, prompts, shift):
    table = tlm.module_effects(
        model, replace(shift, factor=1.0), prompts, n_controls=2, progress=False
    )
    np.testing.assert_allclose(table["effect"], 0, atol=1e-6)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"n_components": 0}, "n_components should be at least 1"),
        ({"n_components": 17}, "n_components should be at most d_model, 16"),
        ({"factor": float("nan")}, "factor should be a finite number"),
        ({"n_new_tokens": -1}, "n_new_tokens should be at least 0"),
        ({"towards": ["the cat"]}, "towards should hold at least two prompts; got 1"),
    ],
)
def test_what_cannot_be_is_refused(model, sets, change, said):
    given = {"towards": sets[0], "against": sets[1], "n_new_tokens": 0, "progress": False}
    with pytest.raises(tlm.ModulesError, match=said):
        tlm.related.eigenshift(model, **given | change)


def test_another_model_and_what_does_not_fit_is_refused(model, modules, prompts, shift):
    other = replace(shift, model="another")
    for use in (other.attach, lambda it: other.ablated(it).__enter__()):
        with pytest.raises(tlm.ModulesError, match="made from 'another'"):
            use(model)
    with pytest.raises(tlm.ModulesError, match="different labels"):
        tlm.module_effects(model, [shift, shift], prompts, progress=False)
    with pytest.raises(tlm.ModulesError, match="'eigenshift' has no complement"):
        tlm.module_effects(model, [*modules, shift], prompts, keep_only=True, progress=False)


def test_it_says_what_it_is(shift):
    assert repr(shift) == (
        "EigenShift(3 of 16 components of the output layer times 0.25, category animal)"
    )
    assert "singular_value" in shift._repr_html_()


def test_a_run_without_gradients_does_not_forbid_a_later_one_with_them(model, shift):
    tokens = model.to_tokens("the cat sat on the mat")
    shift = replace(shift)  # used by no other test yet
    with torch.inference_mode(), shift.ablated(model):
        model(tokens)
    with torch.enable_grad(), shift.ablated(model):
        loss = model(tokens).sum()
        loss.backward()
    model.zero_grad()
