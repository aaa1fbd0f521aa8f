"""Matrices of what units do to the logits, from gradients."""

import numpy as np
import pytest
import torch

import tl_modules as tlm
from tests.conftest import LEGACY, tiny_model
from tests.planted import truth_model
from tl_modules.models.logit_probes import N_PROBES, logit_probes

HOOK = "blocks.{}.mlp.hook_post"
WEIGHTS = ("top_logit", "effect", "activation_effect")


def collected(model, prompts, weight, **options):
    return tlm.collect(model, prompts, weight=weight, progress=False, **options)


def jacobian(model, prompt, layer):
    """The activations of a layer's neurons, and the logits' derivatives by each of them."""
    tokens = model.to_tokens(prompt)
    kept = {}

    def keep(activation, hook):
        kept["a"] = activation
        return activation

    def logits_of(a):
        def put(activation, hook):
            return a

        return model.run_with_hooks(tokens, fwd_hooks=[(HOOK.format(layer), put)])[0]

    logits = model.run_with_hooks(tokens, fwd_hooks=[(HOOK.format(layer), keep)])[0]
    a = kept["a"].detach()
    return a[0], torch.autograd.functional.jacobian(logits_of, a)[:, :, 0], logits


def test_top_logit_is_activation_times_gradient_of_the_largest_logits(model, prompts):
    a, slopes, logits = jacobian(model, prompts["prompt"][9], 1)
    largest = logits.argmax(-1)
    of_largest = slopes[torch.arange(len(largest)), largest].sum(0)
    expected = (a * of_largest).abs().mean(0)
    found = collected(model, prompts, "top_logit")
    np.testing.assert_allclose(found.values[9, 12:24], expected.detach(), rtol=1e-3, atol=1e-6)


def test_effect_is_the_root_mean_square_over_the_probes(model, prompts):
    a, slopes, _ = jacobian(model, prompts["prompt"][9], 1)
    mask = torch.ones(1, len(a), dtype=torch.bool)
    squares = 0
    for probe in logit_probes(mask, seed=3):
        logits = torch.zeros(1, *slopes.shape[:2], requires_grad=True)
        (weights,) = torch.autograd.grad(probe(logits).sum(), logits)
        squares = squares + (a * (weights[0, :, :, None, None] * slopes).sum((0, 1))) ** 2
    effects = (squares / N_PROBES).sqrt()
    found = collected(model, prompts, "effect", probe_seed=3)
    np.testing.assert_allclose(found.values[9, 12:24], effects.mean(0).detach(), rtol=1e-3)
    both = collected(model, prompts, "activation_effect", probe_seed=3)
    expected = (a.abs() * effects).sqrt().mean(0)
    np.testing.assert_allclose(both.values[9, 12:24], expected.detach(), rtol=1e-3)


def test_probes_estimate_the_size_of_a_change_of_the_logits():
    generator = torch.Generator().manual_seed(0)
    change = torch.randn(1, 7, 50, generator=generator)
    mask = torch.ones(1, 7, dtype=torch.bool)
    values = [
        float(probe(change)) for seed in range(100) for probe in logit_probes(mask, seed=seed)
    ]
    centred = change - change.mean(-1, keepdim=True)
    assert np.mean(np.square(values)) == pytest.approx(float(centred.square().sum()), rel=0.25)
    assert abs(float(logit_probes(mask, 0)[0](change + 100)) - values[0]) < 0.01


@pytest.mark.parametrize("weight", WEIGHTS)
def test_batch_size_and_padding_do_not_matter(model, prompts, weight):
    found = [collected(model, prompts, weight, batch_size=size).values for size in (1, 5)]
    np.testing.assert_allclose(*found, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("weight", WEIGHTS)
def test_heads_and_last_tokens_are_read_and_means_are_activations(model, prompts, weight):
    found = collected(model, prompts, weight, units="attn_heads", tokens="last")
    assert found.values.shape == (len(prompts), len(found.units))
    assert (found.values > 0).any(axis=0).all()
    plain = tlm.collect(model, prompts, units="attn_heads", tokens="last", progress=False)
    np.testing.assert_allclose(found.unit_means, plain.unit_means, rtol=1e-4, atol=1e-6)


def test_a_unit_that_the_logits_do_not_depend_on_has_no_effect(prompts):
    model = tiny_model()
    with torch.no_grad():
        if LEGACY:
            model.blocks[2].mlp.W_out[4] = 0
        else:
            model.blocks[2].mlp.out.weight[:, 4] = 0
    for weight in WEIGHTS:
        column = collected(model, prompts, weight).values[:, 2 * 12 + 4]
        np.testing.assert_array_equal(column, 0)


def test_the_probes_are_recorded_and_held_out_prompts_need_the_same(model, prompts, tmp_path):
    acts = collected(model, prompts, "effect", probe_seed=3)
    acts.save(tmp_path / "acts.safetensors")
    assert tlm.ActivationMatrix.load(tmp_path / "acts.safetensors").reading.probe_seed == 3
    assert "by 8 probes of seed 3" in repr(acts)
    again = collected(model, prompts, "effect", probe_seed=3)
    np.testing.assert_allclose(again.values, acts.values, rtol=1e-5)
    other = collected(model, prompts, "effect", probe_seed=4)
    assert not np.allclose(other.values, acts.values, rtol=0.01)
    modules = tlm.discover(acts, 2)
    assert 0 <= tlm.probe_accuracy(modules, acts, again) <= 1
    with pytest.raises(tlm.ModulesError, match="should have the reading of the modules"):
        tlm.probe_accuracy(modules, acts, other)


def test_a_store_is_resumed_with_the_same_probes_only(model, prompts, tmp_path):
    options = {"store": tmp_path / "store", "dtype": "float32", "batch_size": 4}
    store = collected(model, prompts, "activation_effect", **options)
    matrix = collected(model, prompts, "activation_effect", batch_size=4)
    order = store.samples["row"].to_numpy()
    np.testing.assert_allclose(store.matrix().values, matrix.values[order], rtol=1e-5)
    with pytest.raises(tlm.ModulesError, match="reading"):
        collected(model, prompts, "activation_effect", probe_seed=1, **options)


def test_what_cannot_be_read_is_refused(model, tmp_path):
    for weight in WEIGHTS:
        with pytest.raises(tlm.ModulesError, match="counts tokens where a unit is active"):
            collected(model, ["the cat"], weight, aggregate="fraction_active")
        with pytest.raises(tlm.ModulesError, match="Pass dtype='float32'"):
            collected(model, ["the cat"], weight, store=tmp_path / "store")
        collector = tlm.Collector(model, reading=tlm.Reading(weight=weight))
        with pytest.raises(tlm.ModulesError, match=f"Use collect.*weight='{weight}'"):
            collector.add({})
    assert not (tmp_path / "store").exists()
    with pytest.raises(tlm.ModulesError, match=r"has none\. Leave probe_seed out"):
        collected(model, ["the cat"], "top_logit", probe_seed=1)
    with pytest.raises(tlm.ModulesError, match="probe_seed should be at least 0; got -1"):
        collected(model, ["the cat"], "effect", probe_seed=-1)


@pytest.mark.slow
def test_effects_on_the_logits_find_the_owners_where_the_loss_saturates(shared):
    from sklearn.metrics import adjusted_rand_score

    model, owner, tables, prompts_of = truth_model(shared, "hard-0")
    prompts = prompts_of(tables, (20,) * 5, 0)
    ari = {}
    for weight in ("attribution", *WEIGHTS):
        acts = collected(model, prompts, weight, batch_size=50)
        labels = tlm.discover(acts, 5, progress=False).unit_labels
        ari[weight] = adjusted_rand_score(owner, labels)
    assert ari["attribution"] < 0.75
    assert min(ari[weight] for weight in WEIGHTS) > 0.8
