import numpy as np
import pandas as pd
import pytest
import torch

import tl_modules as tlm
from tests.causal.test_effects import loss_by_hand
from tests.toy import Toy, toy_modules
from tl_modules.models.gradients import loss_gradients
from tl_modules.models.relevance import relevance_hooks

HOOK = "blocks.{}.mlp.hook_post"
EVERYWHERE = {"positions": "all", "progress": False}
ESTIMATES = ("gradient", "integrated_gradients", "relp")


@pytest.fixture(scope="module")
def estimates(model, prompts, acts):
    return tlm.unit_estimates(model, prompts, acts, estimate="gradient", batch_size=5, **EVERYWHERE)


def products_by_hand(model, texts, means, hooks=None):
    """Each prompt's (mean - activation) * gradient in layer 1, per token, and activations."""
    for text in texts:
        tokens = model.to_tokens(text)
        mask = torch.ones_like(tokens, dtype=torch.bool)
        activations, gradients = loss_gradients(model, tokens, mask, [HOOK.format(1)], hooks)
        own, slope = (part[HOOK.format(1)][0].numpy() for part in (activations, gradients))
        yield (means[12:24] - own) * slope / (tokens.shape[1] - 1), own


def test_estimates_are_the_losss_slope_towards_the_mean(model, prompts, acts, estimates):
    assert estimates.categories == ("animal", "code")
    step = 1e-2
    for layer, unit in ((0, 2), (2, 9)):
        column = 12 * layer + unit
        mean = float(acts.unit_means[column])

        def towards(activation, hook, share=step, unit=unit, mean=mean):
            result = activation.clone()
            result[..., unit] += share * (mean - activation[..., unit])
            return result

        def away(activation, hook, towards=towards):
            return towards(activation, hook, share=-step)

        for row, name in enumerate(estimates.categories):
            texts = prompts.loc[prompts["category"] == name, "prompt"]
            slopes = [
                (
                    loss_by_hand(model, text, [(HOOK.format(layer), towards)])
                    - loss_by_hand(model, text, [(HOOK.format(layer), away)])
                )
                / (2 * step)
                for text in texts
            ]
            found = estimates.signed[row, column]
            assert found == pytest.approx(np.mean(slopes), rel=0.05, abs=2e-5)


@pytest.mark.parametrize("estimate", ESTIMATES)
def test_estimates_do_not_depend_on_the_batch(model, prompts, acts, estimate):
    options = {"estimate": estimate, "n_steps": 2, **EVERYWHERE}
    one, five = (
        tlm.unit_estimates(model, prompts, acts, batch_size=size, **options) for size in (1, 5)
    )
    for name in ("positive", "negative", "magnitude"):
        np.testing.assert_allclose(getattr(one, name), getattr(five, name), atol=1e-5)


@pytest.mark.parametrize("estimate", ["gradient", "relp"])
def test_each_polarity_has_the_tokens_of_its_sign(model, prompts, acts, estimate):
    found = tlm.unit_estimates(model, prompts, acts, estimate=estimate, **EVERYWHERE)
    hooks = relevance_hooks(model) if estimate == "relp" else None
    for row, name in enumerate(found.categories):
        texts = prompts.loc[prompts["category"] == name, "prompt"]
        runs = list(products_by_hand(model, texts, acts.unit_means, hooks))
        positive = np.mean([np.where(own > 0, moved, 0).sum(0) for moved, own in runs], axis=0)
        negative = np.mean([np.where(own < 0, moved, 0).sum(0) for moved, own in runs], axis=0)
        magnitude = np.mean([np.abs(moved).sum(0) for moved, _ in runs], axis=0)
        assert np.abs(positive).max() > 1e-3 < np.abs(negative).max()
        np.testing.assert_allclose(found.positive[row, 12:24], positive, atol=1e-5)
        np.testing.assert_allclose(found.negative[row, 12:24], negative, atol=1e-5)
        np.testing.assert_allclose(found.signed[row, 12:24], positive + negative, atol=1e-5)
        np.testing.assert_allclose(found.magnitude[row, 12:24], magnitude, atol=1e-5)


def test_integrated_gradients_of_a_layer_add_up_to_the_effect_of_ablating_it(model, prompts, acts):
    texts = prompts["prompt"].tolist()[-6:]
    by = {
        name: tlm.unit_estimates(model, texts, acts, estimate=name, n_steps=16, **EVERYWHERE)
        for name in ("integrated_gradients", "gradient")
    }
    of_gradients = []
    for layer in range(3):
        at = slice(12 * layer, 12 * layer + 12)
        means = torch.from_numpy(np.array(acts.unit_means[at], dtype=np.float32))
        hooks = [(HOOK.format(layer), lambda old, hook, means=means: means.expand_as(old))]
        rise = np.mean(
            [loss_by_hand(model, text, hooks) - loss_by_hand(model, text, []) for text in texts]
        )
        assert by["integrated_gradients"].signed[0, at].sum() == pytest.approx(rise, rel=0.02)
        of_gradients.append(abs(by["gradient"].signed[0, at].sum() / rise - 1))
    assert max(of_gradients) > 0.1


def test_content_alone_is_ablated_to_its_means(model, prompts, acts):
    everywhere = tlm.unit_estimates(model, prompts, acts, **EVERYWHERE)
    content = tlm.unit_estimates(model, prompts, acts, progress=False)
    assert not np.allclose(content.magnitude, everywhere.magnitude, rtol=0.01)
    for row, name in enumerate(content.categories):
        texts = prompts.loc[prompts["category"] == name, "prompt"]
        kept = []
        for text in texts:
            tokens = model.to_tokens(text)
            mask = torch.ones_like(tokens, dtype=torch.bool)
            hooks = relevance_hooks(model) if content.estimate == "relp" else None
            activations, by = loss_gradients(model, tokens, mask, [HOOK.format(1)], hooks)
            own, slope = (part[HOOK.format(1)][0].numpy() for part in (activations, by))
            is_content = tlm.content_positions(model, tokens)[0].numpy()
            moved = (acts.content_means[12:24] - own) * slope / (tokens.shape[1] - 1)
            kept.append(np.abs(moved[is_content]).sum(0))
        np.testing.assert_allclose(content.magnitude[row, 12:24], np.mean(kept, 0), atol=1e-5)


def test_heads_have_one_polarity(model, prompts):
    reference = tlm.collect_reference(model, prompts, units="mlp+attn_heads", progress=False)
    found = tlm.unit_estimates(model, prompts, reference, progress=False)
    is_head = found.units.to_frame()["hook_name"].str.endswith("hook_z").to_numpy()
    assert is_head.sum() == 6
    assert not found.negative[:, is_head].any()
    assert found.positive[:, is_head].all()
    assert found.negative[:, ~is_head].any()


def test_answers_are_estimated_too(model, acts):
    frame = pd.DataFrame(
        {"prompt": ["the cat sat", "one plus"], "answer": [" on", " two"], "category": ["a", "b"]}
    )
    options = {"metric": "answer_logprob", **EVERYWHERE}
    found = tlm.unit_estimates(model, frame, acts, **options)
    assert found.categories == ("a", "b")
    with pytest.raises(tlm.ModulesError, match="max_tokens goes with metric='loss'"):
        tlm.unit_estimates(model, frame, acts, max_tokens=3, **options)


def test_a_contrast_is_with_the_mean_of_the_others(model, prompts, acts):
    named = prompts.assign(category=["a", "b", "c", "c"] * 4)
    found = tlm.unit_estimates(model, named, acts, progress=False)
    np.testing.assert_array_equal(found.of("b"), found.signed[1])
    np.testing.assert_array_equal(found.of("b", "magnitude"), found.magnitude[1])
    for by, values in (("signed", found.signed), ("magnitude", found.magnitude)):
        expected = values[1] - (values[0] + values[2]) / 2
        np.testing.assert_allclose(found.contrast("b", by), expected, atol=1e-12)
    with pytest.raises(tlm.ModulesError, match="category should be one of 'a', 'b', 'c'; got 'd'"):
        found.contrast("d")
    with pytest.raises(tlm.ModulesError, match="by should be one of"):
        found.of("a", "size")
    alone = tlm.unit_estimates(model, ["the cat sat", "a dog ran"], acts, progress=False)
    with pytest.raises(tlm.ModulesError, match="two categories or more; there is one"):
        alone.contrast(alone.categories[0])


def test_the_table_has_each_unit_and_category(estimates):
    table = estimates.to_frame()
    assert len(table) == 36
    assert table.columns[:3].tolist() == ["layer", "hook_name", "unit"]
    np.testing.assert_array_equal(table["signed[code]"], estimates.signed[1])
    np.testing.assert_array_equal(table["negative[animal]"], estimates.negative[0])
    assert "<table" in estimates._repr_html_()
    assert repr(estimates) == "UnitEstimates(36 units, 2 categories, by gradient)"


def test_what_cannot_be_estimated_is_refused(model, other_model, prompts, acts):
    with pytest.raises(tlm.ModulesError, match="n_steps should be at least 1; got 0"):
        tlm.unit_estimates(model, prompts, acts, n_steps=0)
    with pytest.raises(tlm.ModulesError, match="hook points of width"):
        tlm.unit_estimates(other_model, prompts, acts, progress=False)
    with pytest.raises(tlm.ModulesError, match=r"'toy' lacks 6, 'blocks.0.mlp.hook_pre'"):
        tlm.unit_estimates(Toy(), ["1 1"], toy_modules(), estimate="relp", **EVERYWHERE)
