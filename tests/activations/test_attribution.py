"""Matrices of |activation x gradient of the loss|."""

import numpy as np
import pytest
import torch

import tl_modules as tlm
from tests.conftest import tiny_model, unsaid
from tl_modules.activations.reading import Reading
from tl_modules.models.losses import next_token_losses

HOOK = "blocks.{}.mlp.hook_post"


def collected(model, prompts, **options):
    return tlm.collect(model, prompts, weight="attribution", progress=False, **options)


@pytest.fixture(scope="module")
def attributed(model, prompts):
    return collected(model, prompts)


def test_a_value_is_activation_times_gradient_of_the_summed_loss(model, prompts, attributed):
    row = 9
    tokens = model.to_tokens(prompts["prompt"][row])
    kept = {}

    def keep(activation, hook):
        activation.retain_grad()
        kept["a"] = activation

    logits = model.run_with_hooks(tokens, fwd_hooks=[(HOOK.format(1), keep)])
    mask = torch.ones_like(tokens).bool()
    (next_token_losses(logits, tokens, mask).sum() * (tokens.shape[1] - 1)).backward()
    expected = (kept["a"] * kept["a"].grad)[0].abs().mean(0)
    model.zero_grad()
    np.testing.assert_allclose(attributed.values[row, 12:24], expected.detach(), rtol=1e-3)


@pytest.mark.parametrize("batch_size", [1, 5])
def test_batch_size_and_padding_do_not_matter(model, prompts, attributed, batch_size):
    found = collected(model, prompts, batch_size=batch_size)
    np.testing.assert_allclose(found.values, attributed.values, rtol=1e-3, atol=1e-6)


def test_mean_ablations_values_are_still_activations(attributed, acts):
    np.testing.assert_allclose(attributed.unit_means, acts.unit_means, rtol=1e-4, atol=1e-6)


def test_the_model_needs_no_gradients_and_keeps_none(prompts, attributed):
    model = tiny_model()
    model.requires_grad_(False)
    with torch.no_grad():
        found = collected(model, prompts)
        assert not torch.is_grad_enabled()
    np.testing.assert_allclose(found.values, attributed.values, rtol=1e-4, atol=1e-7)
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not any(point._forward_hooks for point in model.hook_dict.values())


def test_files_and_modules_remember_what_the_values_were(attributed, acts, tmp_path):
    attributed.save(tmp_path / "acts.safetensors")
    loaded = tlm.ActivationMatrix.load(tmp_path / "acts.safetensors")
    assert loaded.reading.weight == "attribution"
    assert "mean |attribution|" in repr(loaded)
    modules = tlm.discover(loaded, 3)
    modules.save(tmp_path / "modules.safetensors")
    assert tlm.ModuleSet.load(tmp_path / "modules.safetensors").reading == attributed.reading
    assert tlm.discover(acts, 3).reading == acts.reading == Reading()


def test_profiles_of_the_other_kind_are_refused(attributed, acts):
    modules = tlm.discover(attributed, 3)
    assert 0 <= tlm.probe_accuracy(modules, attributed, attributed) <= 1
    with pytest.raises(tlm.ModulesError, match=r"mean \|attribution\|; they have mean \|act"):
        tlm.probe_accuracy(modules, acts, acts)


@unsaid
def test_controls_of_like_magnitude_need_activations(model, attributed, acts, prompts):
    modules = tlm.discover(attributed, 3)
    options = {"controls": "magnitude", "n_controls": 2, "progress": False}
    with pytest.raises(tlm.ModulesError, match="needs the units' mean"):
        tlm.module_effects(model, modules, prompts, **options)
    found = tlm.module_effects(model, modules, prompts, reference=tlm.discover(acts, 3), **options)
    assert np.isfinite(found["control_mean"]).all()


def test_what_cannot_be_attributed_is_refused(model, acts, tmp_path):
    with pytest.raises(tlm.ModulesError, match="weight should be one of 'activation'"):
        tlm.collect(model, ["the cat"], weight="gradient", progress=False)
    with pytest.raises(tlm.ModulesError, match="Pass dtype='float32'"):
        collected(model, ["the cat"], store=tmp_path / "store")
    with pytest.raises(tlm.ModulesError, match="at least two tokens"):
        collected(model, ["the cat"], max_tokens=1)
