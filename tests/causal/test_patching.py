"""Patching modules, beside TransformerLens' own patching and patches written by hand."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from transformer_lens import patching

import tl_modules as tlm
from tests.conftest import LEGACY

HOOK = "blocks.{}.mlp.hook_post"

needs_result = pytest.mark.skipif(LEGACY, reason="TransformerLens 3.9 has no PatchingResult")


@pytest.fixture(scope="module")
def cache(model, clean):
    with torch.inference_mode():
        return model.run_with_cache(clean)[1]


def difference(logits):
    """The last token's logit difference, averaged over the batch."""
    return (logits[:, -1, 5] - logits[:, -1, 9]).mean()


def each(logits):
    """The same for each prompt."""
    return logits[:, -1, 5] - logits[:, -1, 9]


def by_hand(model, tokens, cache, module, positions=slice(None), layers=range(3)):
    """A patch of several hooks, without the library."""
    frame = module.units.to_frame()
    hooks = []
    for layer in layers:
        index = frame.loc[frame["layer"] == layer, "unit"].tolist()

        def patch(activation, hook, layer=layer, index=index):
            result = activation.clone()
            for unit in index:
                result[:, positions, unit] = cache[HOOK.format(layer)][:, positions, unit]
            return result

        hooks.append((HOOK.format(layer), patch))
    with torch.inference_mode():
        return model.run_with_hooks(tokens, fwd_hooks=hooks)


def patched(function, model, corrupted, cache, modules, metric=difference, **options):
    return function(model, corrupted, cache, metric, modules, progress=False, **options)


def test_each_module_is_patched_as_by_hand(model, corrupted, cache, modules):
    found = patched(tlm.get_act_patch_module, model, corrupted, cache, modules)
    expected = [difference(by_hand(model, corrupted, cache, module)) for module in modules]
    torch.testing.assert_close(found, torch.stack(expected))
    assert found.shape == (3,)


def test_each_position_is_patched_as_by_hand(model, corrupted, cache, modules):
    found = patched(tlm.get_act_patch_module_by_pos, model, corrupted, cache, modules)
    assert found.shape == (3, 7)
    for k, position in ((0, 0), (1, 3), (2, 6)):
        expected = difference(by_hand(model, corrupted, cache, modules[k], position))
        torch.testing.assert_close(found[k, position], expected)


def test_each_layer_is_patched_as_by_hand(model, corrupted, cache, modules):
    found = patched(tlm.get_act_patch_module_by_layer, model, corrupted, cache, modules)
    assert found.shape == (3, 3)
    for k in range(3):
        for layer in range(3):
            logits = by_hand(model, corrupted, cache, modules[k], layers=[layer])
            torch.testing.assert_close(found[k, layer], difference(logits))


def test_the_other_direction_swaps_the_runs(model, clean, corrupted, modules):
    with torch.inference_mode():
        other = model.run_with_cache(corrupted)[1]
    found = patched(tlm.get_act_patch_module, model, clean, other, modules[1])
    expected = difference(by_hand(model, clean, other, modules[1]))
    torch.testing.assert_close(found[0], expected)


def test_patching_all_units_of_all_layers_is_patching_every_mlp_out(
    model, corrupted, cache, modules
):
    every = replace(modules[0], units=modules.units)
    found = patched(tlm.get_act_patch_module, model, corrupted, cache, every)
    hooks = [
        (name, lambda activation, hook, name=name: cache[name])
        for name in (f"blocks.{layer}.hook_mlp_out" for layer in range(3))
    ]
    with torch.inference_mode():
        expected = difference(model.run_with_hooks(corrupted, fwd_hooks=hooks))
        plain = difference(model(corrupted))
    torch.testing.assert_close(found[0], expected)
    assert abs(float(found[0] - plain)) > 1e-4


def test_all_units_of_one_layer_and_position_agree_with_transformer_lens(
    model, corrupted, cache, modules
):
    every = replace(modules[0], units=modules.units)
    theirs = patching.get_act_patch_mlp_out(model, corrupted, cache, difference)
    for layer in range(3):
        units = modules.units.select(modules.units.hook == layer)
        ours = patched(
            tlm.get_act_patch_module_by_pos, model, corrupted, cache, replace(every, units=units)
        )
        torch.testing.assert_close(ours[0], theirs[layer].to(ours), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("batch_size", [1, 5, 64])
def test_how_many_share_a_pass_does_not_matter(model, corrupted, cache, modules, batch_size):
    options = {"batch_size": batch_size}
    found = patched(tlm.get_act_patch_module_by_pos, model, corrupted, cache, modules, **options)
    expected = patched(tlm.get_act_patch_module_by_pos, model, corrupted, cache, modules)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


def test_an_empty_module_patches_nothing(model, corrupted, cache, modules):
    empty = replace(modules[0], units=modules.units.select(np.empty(0, dtype=int)))
    found = patched(tlm.get_act_patch_module, model, corrupted, cache, empty)
    with torch.inference_mode():
        assert torch.equal(found[0], difference(model(corrupted)))


def test_the_mean_of_a_batch_metric_and_the_index_come_as_transformer_lens_gives_them(
    model, corrupted, cache, modules
):
    found, index = patched(
        tlm.get_act_patch_module_by_layer,
        model,
        corrupted,
        cache,
        modules,
        return_index_df=True,
        reduce="mean",
        metric=each,
    )
    assert index.columns.tolist() == ["module", "layer"]
    assert len(index) == found.numel() == 9
    expected = patched(tlm.get_act_patch_module_by_layer, model, corrupted, cache, modules)
    torch.testing.assert_close(found, expected)


@needs_result
def test_a_patching_result_holds_each_prompt_and_the_baseline(model, corrupted, cache, modules):
    found = patched(
        tlm.get_act_patch_module_by_pos,
        model,
        corrupted,
        cache,
        modules,
        metric={"difference": each, "first": lambda logits: logits[:, 0, 0]},
        reduce="none",
        baseline=True,
    )
    assert isinstance(found, patching.PatchingResult)
    assert found.values.shape == (2, 3, 7, 2)
    assert found.axis_names == ["module", "pos"]
    with torch.inference_mode():
        torch.testing.assert_close(found.baseline[0], each(model(corrupted)))
    one = found["difference"]
    expected = patched(tlm.get_act_patch_module_by_pos, model, corrupted, cache, modules)
    torch.testing.assert_close(one.mean(), expected)
    low, high = one.bootstrap_ci(of_effect=True)
    assert (low <= high).all()
    assert len(found.to_dataframe()) == 2 * 21 * 2


@needs_result
@pytest.mark.parametrize(
    "options", [{"reduce": "none"}, {"baseline": True}, {"metric": {"m": difference}}]
)
def test_results_have_the_form_of_transformer_lens_own(model, corrupted, cache, modules, options):
    options = {"metric": each if options.get("reduce") else difference} | options
    ours = patched(tlm.get_act_patch_module_by_pos, model, corrupted, cache, modules, **options)
    metric = options.pop("metric")
    theirs = patching.get_act_patch_mlp_out(model, corrupted, cache, metric, **options)
    assert type(ours) is type(theirs)
    assert ours.values.ndim == theirs.values.ndim
    assert ours.metric_names == theirs.metric_names
    assert (ours.reduced, ours.has_metric_axis) == (theirs.reduced, theirs.has_metric_axis)
    assert (ours.baseline is None) == (theirs.baseline is None)
    if ours.baseline is not None:
        torch.testing.assert_close(ours.baseline, theirs.baseline)


@pytest.mark.skipif(not LEGACY, reason="TransformerLens 4 has a PatchingResult")
def test_what_needs_a_patching_result_is_refused_without_one(model, corrupted, cache, modules):
    with pytest.raises(tlm.ModulesError, match="need TransformerLens 4's PatchingResult"):
        patched(tlm.get_act_patch_module, model, corrupted, cache, modules, baseline=True)


def test_padding_is_not_patched(model, corrupted, cache, modules):
    mask = torch.ones_like(corrupted)
    mask[0, 5:] = 0
    found = patched(
        tlm.get_act_patch_module_by_pos,
        model,
        corrupted,
        cache,
        modules[1],
        attention_mask=mask,
        metric=lambda logits: logits[0].abs().sum(),
    )
    with torch.inference_mode():
        plain = model(corrupted, attention_mask=mask)[0].abs().sum()
    assert torch.equal(found[0, 5:], plain.expand(2))
    assert not torch.isclose(found[0, 2], plain)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"metric": each}, r"should return a tensor of shape \(\); it has \(2,\)"),
        ({"reduce": "mean"}, r"should return a tensor of shape \(2,\); it has \(\)"),
        ({"reduce": "sum"}, "reduce should be one of 'scalar', 'mean', 'none'; got 'sum'"),
        ({"batch_size": 0}, "batch_size should be at least 1; got 0"),
    ],
)
def test_bad_options_are_refused(model, corrupted, cache, modules, options, message):
    with pytest.raises(tlm.ModulesError, match=message):
        patched(tlm.get_act_patch_module, model, corrupted, cache, modules, **options)


def test_bad_runs_are_refused(model, other_model, corrupted, cache, modules):
    with pytest.raises(tlm.ModulesError, match="source should be a run of the same batch"):
        patched(tlm.get_act_patch_module, model, corrupted[:, :5], cache, modules)
    with pytest.raises(tlm.ModulesError, match="source should hold"):
        patched(tlm.get_act_patch_module, model, corrupted, {}, modules)
    with pytest.raises(tlm.ModulesError, match="hook points of width"):
        patched(tlm.get_act_patch_module, other_model, corrupted, cache, modules)
    with pytest.raises(TypeError, match="unexpected keyword argument 'speed'"):
        patched(tlm.get_act_patch_module_by_pos, model, corrupted, cache, modules, speed=3)
