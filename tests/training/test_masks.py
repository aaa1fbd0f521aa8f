"""A module's weights, held against what its neurons do."""

from copy import deepcopy

import numpy as np
import pytest
import torch

import tl_modules as tlm
from tests.architectures import ARCHITECTURES, hooked_model, hugging_face_model
from tests.conftest import tiny_model
from tests.related.test_refusals import untyped
from tl_modules.interventions.hooks import unit_hooks
from tl_modules.training.masks import neuron_rows
from tl_modules.units import site_units

WITH_NEURONS = [name for name, row in ARCHITECTURES.items() if row.d_mlp]


def some_units(model, share=0.4, seed=0):
    units = site_units(model, "mlp")
    return units.select(np.random.default_rng(seed).random(len(units)) < share)


def only_down(model, units):
    """The parameters that hold W_out."""
    return {every[-1].name for _, _, every in neuron_rows(model, units)}


def zeroed(model, masks):
    """A model whose masked entries are 0."""
    named = dict(model.named_parameters())
    with torch.no_grad():
        for name, mask in masks.items():
            named[name].masked_fill_(mask, 0)
    return model


def check_zeroing_is_ablating(model, units, tokens):
    module_masks = tlm.training.parameter_masks(model, units)
    named = dict(model.named_parameters())
    assert all(mask.shape == named[name].shape for name, mask in module_masks.items())
    hooks = unit_hooks(units, "zero")
    with torch.inference_mode():
        plain = model(tokens)
        ablated = model.run_with_hooks(tokens, fwd_hooks=hooks)
    down = {name: module_masks[name] for name in only_down(model, units)}
    before = {name: named[name].detach().clone() for name in down}
    with torch.inference_mode():
        found = zeroed(model, down)(tokens)
    with torch.no_grad():
        for name, values in before.items():
            named[name].copy_(values)
    scale = ablated.abs().max()
    assert (plain - ablated).abs().max() > 1e-3 * scale
    torch.testing.assert_close(found, ablated, atol=float(1e-5 * scale), rtol=1e-4)


@pytest.mark.parametrize("gated", [True, False])
def test_zeroing_the_entries_of_w_out_is_zero_ablating_the_module(gated, prompts):
    model = tiny_model(gated=gated)
    check_zeroing_is_ablating(model, some_units(model), model.to_tokens(prompts["prompt"][6]))


@pytest.mark.parametrize("name", WITH_NEURONS)
def test_it_is_so_in_every_architecture(name):
    model = hooked_model(hugging_face_model(name), name)
    check_zeroing_is_ablating(model, some_units(model), torch.arange(3, 12)[None])


@pytest.mark.slow
def test_it_is_so_in_the_demo_model(demo_model):
    tokens = demo_model.to_tokens("The capital of France is Paris")
    check_zeroing_is_ablating(demo_model, some_units(demo_model, 0.05), tokens)


@pytest.mark.parametrize("name", ["tiny", *WITH_NEURONS])
def test_the_entries_that_feed_neurons_are_those_and_no_others(name):
    model = tiny_model() if name == "tiny" else hooked_model(hugging_face_model(name), name)
    units = some_units(model)
    units = units.select(units.hook == 0)  # later layers read what the first wrote
    tokens = torch.arange(3, 12)[None]
    hook = units.hook_names[0]
    before = model.run_with_cache(tokens)[1][hook].detach()
    down = only_down(model, units)
    zeroed(
        model,
        {k: v for k, v in tlm.training.parameter_masks(model, units).items() if k not in down},
    )
    after = model.run_with_cache(tokens)[1][hook].detach()
    mine = torch.zeros(before.shape[-1], dtype=torch.bool)
    mine[torch.from_numpy(units.index.astype(np.int64))] = True
    # Not in bits: a product's sums depend on its other columns.
    torch.testing.assert_close(after[..., ~mine], before[..., ~mine], atol=1e-5, rtol=1e-5)
    assert after[..., mine].abs().max() < 1e-6 < before[..., mine].abs().max()


def test_all_entries_of_the_mlps_belong_to_all_neurons():
    model = tiny_model()
    masks = tlm.training.parameter_masks(model, site_units(model, "mlp"))
    assert all(bool(mask.all()) for mask in masks.values())
    per_neuron = 3 * 16 + any("b_in" in name for name in masks)
    assert sum(int(mask.sum()) for mask in masks.values()) == 36 * per_neuron


def test_units_that_are_no_neurons_or_of_another_model_are_refused(model, other_model):
    for site in ("attn_heads", "resid", "mlp+attn_heads"):
        with pytest.raises(tlm.ModulesError, match="Only MLP neurons have weights"):
            tlm.training.parameter_masks(model, site_units(model, site))
    with pytest.raises(tlm.ModulesError, match="should be those of the model"):
        tlm.training.parameter_masks(other_model, some_units(model))


def test_weights_that_are_not_a_layers_own_parameter_are_refused():
    model = tiny_model()
    units = some_units(model)
    named = dict(model.named_parameters())
    names = {"parameters": {}, "twice": dict(named)}
    first = next(iter(tlm.training.parameter_masks(model, units)))
    names["twice"]["again"] = torch.nn.Parameter(named[first].detach())
    for known, said in (("parameters", "it lies in none"), ("twice", "'again'")):
        model.named_parameters = lambda known=known: iter(names[known].items())
        with pytest.raises(tlm.ModulesError, match=said):
            tlm.training.parameter_masks(model, units)


def test_layers_that_share_their_weights_are_refused():
    model = deepcopy(tiny_model())
    units = some_units(model)
    rows = [every for _, _, every in neuron_rows(model, units)]
    for ours, theirs in zip(rows[2], rows[0], strict=True):
        ours.parameter.data = theirs.parameter.data
    units = units.select(units.hook == 0)
    with pytest.raises(tlm.ModulesError, match=r"of its own|exactly one parameter"):
        tlm.training.parameter_masks(model, units)


def test_a_whole_set_of_modules_is_refused_wherever_one_trains(model, modules):
    texts = ["the cat sat on", "a dog ran"]
    calls = [
        lambda module: tlm.training.parameter_masks(model, module),
        lambda module: tlm.training.unlearn(model, module, texts, texts, progress=False),
        lambda module: tlm.training.forgetting(model, module, texts, texts, progress=False),
        lambda module: tlm.training.fuse_pathways(model, model, module),
    ]
    said = r"one module or units; got (ModuleSet|list)\. Pass the modules .*: modules\[0\] is one"
    for call in calls:
        for module in (modules, list(modules)):
            with untyped(), pytest.raises(tlm.ModulesError, match=said):
                call(module)
