"""Attribution patching against patching, finite differences and a model linear in its units."""

import numpy as np
import pytest
import torch

import tl_modules as tlm
from tests.causal.test_patching import difference, each
from tests.conftest import tiny_model

HOOK = "blocks.{}.mlp.hook_post"


def attribute(model, clean, corrupted, modules, metric=difference, **options):
    return tlm.attribute_modules(model, clean, corrupted, metric, modules, **options)


def test_unit_scores_are_change_times_gradient_by_finite_differences(
    model,
    clean,
    corrupted,
    modules,
):
    found = attribute(model, clean, corrupted, modules)
    _, one = model.run_with_cache(clean)
    _, other = model.run_with_cache(corrupted)
    step = 1e-2
    for layer, unit in ((0, 3), (1, 7), (2, 11)):
        name = HOOK.format(layer)
        change = (one[name] - other[name])[..., unit].detach()
        values = []
        for sign in (1, -1):

            def shift(activation, hook, sign=sign, unit=unit, change=change):
                result = activation.clone()
                result[..., unit] += sign * step * change
                return result

            with torch.inference_mode():
                logits = model.run_with_hooks(corrupted, fwd_hooks=[(name, shift)])
            values.append(float(difference(logits)))
        slope = (values[0] - values[1]) / (2 * step)
        assert found.unit_scores[12 * layer + unit] == pytest.approx(slope, rel=2e-2, abs=1e-5)


def test_module_scores_are_the_sums_of_their_units(model, clean, corrupted, modules):
    found = attribute(model, clean, corrupted, modules)
    for module, score in zip(modules, found.modules["score"], strict=True):
        assert score == pytest.approx(found.unit_scores[module.units.flat()].sum())
    frame = found.to_frame()
    assert frame["module"].tolist() == modules.unit_labels.tolist()
    for row, score in zip(found.modules.itertuples(), found.modules["score"], strict=True):
        assert frame.loc[frame["module"] == row.module, "score"].sum() == pytest.approx(score)


def test_a_units_module_is_missing_where_no_module_holds_it(model, clean, corrupted, modules):
    frame = attribute(model, clean, corrupted, modules[1]).to_frame()
    inside = modules.unit_labels == 1
    assert (frame["module"][inside] == 1).all()
    assert frame["module"][~inside].isna().all()


def test_the_last_layers_scores_are_exact_without_a_final_norm(prompts):
    # The last MLP adds to the residual stream, and without a norm the logits are linear in it.
    model = tiny_model(normalization_type=None)
    acts = tlm.collect(model, prompts, progress=False)
    modules = tlm.discover(acts, 2)
    runs = [model.to_tokens(text) for text in ("the cat sat on the mat", "the dog ran over a tree")]
    last = [
        tlm.Module(module.label, module.units.select(module.units.hook == 2), module.samples)
        for module in modules
    ]
    found = attribute(model, *runs, last, exact=True)
    np.testing.assert_allclose(found.modules["score"], found.modules["exact"], rtol=1e-3, atol=1e-5)


def test_exact_effects_are_patchings(model, clean, corrupted, modules):
    found = attribute(model, clean, corrupted, modules, exact=True)
    with torch.inference_mode():
        cache = model.run_with_cache(clean)[1]
        plain = difference(model(corrupted))
    patched = tlm.get_act_patch_module(model, corrupted, cache, difference, modules, progress=False)
    np.testing.assert_allclose(found.modules["exact"], (patched - plain).numpy(), atol=1e-5)
    assert found.metric_corrupted == pytest.approx(float(plain), abs=1e-5)
    assert found.agreement().index.tolist() == ["pearson", "spearman"]
    expected = np.corrcoef(found.modules["score"], found.modules["exact"])[0, 1]
    assert found.agreement()["pearson"] == pytest.approx(expected)


def test_integrated_gradients_converge_as_steps_grow(model, clean, corrupted, modules):
    few, many, more = (
        attribute(model, clean, corrupted, modules, n_steps=steps).unit_scores
        for steps in (2, 32, 64)
    )
    assert np.abs(more - many).max() < 0.2 * np.abs(more - few).max() + 1e-6


def test_integrated_gradients_average_the_gradients_between_the_runs(
    model,
    clean,
    corrupted,
    modules,
):
    # Runs that are the same leave nothing to change.
    same = attribute(model, clean, clean, modules, n_steps=3)
    assert np.abs(same.unit_scores).max() == 0
    # Two steps: the gradients at a quarter and at three quarters of the way, by hand.
    name = HOOK.format(1)
    _, one = model.run_with_cache(clean)
    _, other = model.run_with_cache(corrupted)
    gradients = []
    for share in (0.25, 0.75):
        embedding = ((1 - share) * other["hook_embed"] + share * one["hook_embed"]).detach()
        seen = {}

        def keep(activation, hook, seen=seen):
            activation.retain_grad()
            seen["a"] = activation

        hooks = [("hook_embed", lambda a, hook, to=embedding: to), (name, keep)]
        difference(model.run_with_hooks(corrupted, fwd_hooks=hooks)).backward()
        gradients.append(seen["a"].grad)
    model.zero_grad()
    expected = ((one[name] - other[name]) * sum(gradients) / 2).sum((0, 1)).detach()
    found = attribute(model, clean, corrupted, modules, n_steps=2).unit_scores[12:24]
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-6)


def test_a_batch_metric_is_averaged(model, clean, corrupted, modules):
    one = attribute(model, clean, corrupted, modules, metric=each)
    other = attribute(model, clean, corrupted, modules, metric=difference)
    np.testing.assert_allclose(one.unit_scores, other.unit_scores, atol=1e-6)


def test_padding_counts_for_nothing(model, modules):
    texts = ["the cat sat on the mat", "the dog ran"], ["the cat ran on the tree", "the bird sat"]
    runs = []
    for pair in texts:
        rows = [model.to_tokens(text)[0] for text in pair]
        runs.append(torch.nn.utils.rnn.pad_sequence(rows, batch_first=True))
    mask = torch.ones_like(runs[0])
    mask[1, 4:] = 0
    padded = attribute(
        model, *runs, modules, metric=lambda logits: logits[1, 3, 5], attention_mask=mask
    )
    alone = attribute(
        model, *(run[1:, :4] for run in runs), modules, metric=lambda logits: logits[0, 3, 5]
    )
    np.testing.assert_allclose(padded.unit_scores, alone.unit_scores, atol=1e-5)


def test_the_model_keeps_no_gradient_and_needs_none(clean, corrupted, modules):
    model = tiny_model()
    model.requires_grad_(False)
    found = attribute(model, clean, corrupted, modules)
    assert np.abs(found.unit_scores).max() > 0
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not any(point._forward_hooks for point in model.hook_dict.values())


def test_what_cannot_be_attributed_is_refused(model, other_model, clean, corrupted, modules):
    with pytest.raises(tlm.ModulesError, match="should have one shape"):
        attribute(model, clean[:, :4], corrupted, modules)
    with pytest.raises(tlm.ModulesError, match="n_steps should be at least 1; got 0"):
        attribute(model, clean, corrupted, modules, n_steps=0)
    with pytest.raises(tlm.ModulesError, match="metric should return a scalar"):
        attribute(model, clean, corrupted, modules, metric=lambda logits: logits[:, :, 0])
    with pytest.raises(tlm.ModulesError, match="hook points of width"):
        attribute(other_model, clean, corrupted, modules)
    with pytest.raises(tlm.ModulesError, match="Pass exact=True"):
        attribute(model, clean, corrupted, modules).agreement()
