"""Interventions that leave attention sinks alone, with means that leave them out."""

from dataclasses import replace

import numpy as np
import pytest
import torch

import tl_modules as tlm
from tests.conftest import unsaid
from tests.toy import SinkToy, toy_modules

QUIET = {"n_controls": 0, "progress": False}


@pytest.fixture(scope="module")
def toy():
    return SinkToy()


@pytest.fixture(scope="module")
def pair():
    """Modules whose means over all tokens are far from those over content."""
    means = np.array([0.1, 0.2, 0.7, 0.1])
    return replace(toy_modules(), unit_means=9 * means, content_means=means)


def loss(logit):
    """Of token 1, whose logit this is, among 100 tokens; the others' logits are 0."""
    return np.log(99 + np.exp(logit)) - logit


def effects(toy, pair, prompt, **options):
    return tlm.module_effects(toy, pair, [prompt], **QUIET, **options)["effect"]


def test_the_first_token_is_left_alone(toy, pair):
    # Without a and d the logit is 0.6 of 1.7; the last token predicts nothing.
    found = effects(toy, pair, "1 1 1", method="zero", positions="content")
    assert found[0] == pytest.approx((loss(0.6) - loss(1.7)) / 2, rel=1e-5)
    found = effects(toy, pair, "1 1 1", method="zero", positions="all")
    assert found[0] == pytest.approx(loss(0.6) - loss(1.7), rel=1e-5)


def test_a_sink_inside_the_prompt_is_left_alone(toy, pair):
    sinks = effects(toy, pair, "1 1 1 50 1 1", method="zero", positions="content")
    plain = effects(toy, pair, "1 1 1 1 1 1", method="zero", positions="content")
    # Three of five predicting tokens are ablated instead of four; one of them predicts 50.
    assert plain[0] * 5 == pytest.approx(4 * (loss(0.6) - loss(1.7)), rel=1e-5)
    at_50 = np.log(99 + np.exp(0.6)) - np.log(99 + np.exp(1.7))
    assert sinks[0] * 5 == pytest.approx(2 * (loss(0.6) - loss(1.7)) + at_50, rel=1e-5)


def test_means_are_over_content(toy, pair):
    """The values are the content's means already, so that nothing changes there."""
    assert effects(toy, pair, "20 1 1 1", positions="content")[0] == pytest.approx(0, abs=1e-6)
    assert abs(effects(toy, pair, "20 1 1 1", positions="all")[0]) > 0.1


def test_without_means_over_content_a_warning_says_so(toy, pair):
    old = replace(pair, content_means=None)
    with pytest.warns(UserWarning, match="means over all tokens and none over content"):
        found = tlm.module_effects(toy, old, ["20 1 1"], positions="content", **QUIET)
    assert abs(found["effect"][0]) > 0.1


@unsaid
def test_other_targets_and_controls_leave_it_alone_too(model, prompts, modules):
    """With a metric of what follows the first token alone, nothing has an effect."""
    few = prompts.assign(prompt=prompts["prompt"].str.split().str[:1].str.join(" "))
    options = {"n_controls": 2, "progress": False}
    found = tlm.module_effects(model, modules, few, positions="content", **options)
    np.testing.assert_allclose(found[["effect", "control_mean"]], 0, atol=1e-6)
    erase = tlm.related.leace(
        model, few[:8], few[8:], "blocks.1.hook_resid_post", category="animal", progress=False
    )
    found = tlm.module_effects(model, erase, few, positions="content", **options)
    np.testing.assert_allclose(found["effect"], 0, atol=1e-6)


def test_estimates_are_of_the_same_positions_and_means(toy, pair):
    options = {"n_units": 4, "progress": False}
    found = tlm.shared_units(toy, ["20 1 1"], pair, positions="content", **options)
    np.testing.assert_allclose(found.table[["measured", "estimate", "effect"]], 0, atol=1e-6)
    found = tlm.shared_units(toy, ["20 1 1"], pair, positions="all", **options)
    assert np.abs(found.table[["measured", "estimate", "effect"]].to_numpy()).max() > 0.1


@pytest.mark.parametrize("method", ["zero", "mean"])
def test_circuits_leave_the_first_token_alone(toy, pair, method):
    options = {"method": method, "n_controls": 2, "progress": False}
    tokens = torch.tensor([[1, 2], [2, 3]])

    def first(logits):
        return logits[:, 0, 1]

    found = tlm.circuit_scores(toy, tokens, None, first, pair, [0], positions="all", **options)
    assert found.metric_full != found.metric_empty
    with pytest.raises(tlm.ModulesError, match="Ablating all 4 units should change the metric"):
        tlm.circuit_scores(toy, tokens, None, first, pair, [0], positions="content", **options)


def values_at(model, module, tokens, **options):
    """The module's activations before and under an intervention."""
    names = list(dict(module.units.by_hook()))
    hook_names = [module.units.hook_names[hook] for hook in names]
    _, clean = model.run_with_cache(tokens)
    with module.ablated(model, **options):
        _, cache = model.run_with_cache(tokens)
    places = dict(module.units.by_hook())
    pairs = zip(hook_names, names, strict=True)
    index = {name: module.units.index[places[hook]] for name, hook in pairs}
    return [
        torch.cat([of[name][..., index[name]] for name in hook_names], dim=-1)
        for of in (clean, cache)
    ]


@pytest.mark.parametrize("method", ["zero", "resample", "scale"])
def test_every_method_leaves_the_first_token_alone(model, modules, prompts, method):
    """Steering too."""
    tokens = model.to_tokens("the cat sat on the mat")
    options = {"reference": tlm.collect_reference(model, prompts, n_tokens=9, progress=False)}
    if method == "scale":
        options = {"factor": -3.0}
    before, after = values_at(model, modules[0], tokens, method=method, **options)
    assert not torch.allclose(before[:, 0], after[:, 0])
    options["positions"] = "content"
    before, after = values_at(model, modules[0], tokens, method=method, **options)
    assert torch.equal(before[:, 0], after[:, 0])
    assert not torch.allclose(before[:, 1:], after[:, 1:])


def test_hooks_leave_the_first_token_alone(model, modules, acts):
    tokens = model.to_tokens("the cat sat on the mat")
    before, after = values_at(model, modules[0], tokens, positions="content")
    assert torch.equal(before[:, 0], after[:, 0])
    means = torch.from_numpy(acts.content_means[modules[0].units.flat()])
    torch.testing.assert_close(after[:, 1:], means.expand_as(after[:, 1:]))


@pytest.mark.parametrize("mask", [[[1, 1, 1, 1, 0, 0]], [[0, 0, 1, 1, 1, 1]]])
def test_hooks_leave_the_first_real_token_and_padding_alone(model, modules, mask):
    tokens = model.to_tokens("the cat sat on the mat")[:, :6]
    real = torch.tensor(mask)
    before, after = values_at(
        model, modules[0], tokens, method="zero", positions="content", attention_mask=mask
    )
    zeroed = real.bool() & (real.cumsum(1) > 1)
    assert bool((after[zeroed] == 0).all())
    assert bool((before != 0).all())
    assert bool((after[~zeroed] != 0).all())


def test_while_generating_every_new_token_is_content(model, modules):
    tokens = model.to_tokens("the cat sat")
    options = {"max_new_tokens": 3, "verbose": False, "do_sample": False}
    with modules[0].ablated(model, "zero", positions="content"):
        found = model.generate(tokens, **options)
    where = torch.arange(9)[None] > 0
    with modules[0].ablated(model, "zero", positions=where):
        assert torch.equal(model.generate(tokens, **options), found)


def test_resampled_tokens_are_content(model, modules, prompts):
    reference = tlm.collect_reference(model, prompts, n_tokens=10**6, progress=False)
    tokens = model.to_tokens("the cat sat on the mat").repeat(8, 1)
    options = {"method": "resample", "reference": reference, "positions": "content"}
    _, after = values_at(model, modules[0], tokens, **options)
    table = torch.from_numpy(reference.tokens[:, modules[0].units.flat()])
    drawn = torch.cdist(after[:, 1:].flatten(0, 1), table).argmin(1)
    assert reference.is_content[drawn.numpy()].all()
    with pytest.raises(tlm.ModulesError, match="needs content tokens to draw from"):
        modules[0].fwd_hooks(
            **options | {"reference": replace(reference, is_content=drawn_none(reference))}
        )


def drawn_none(reference):
    return np.zeros(len(reference.tokens), dtype=bool)


def test_patching_changes_every_token(model, modules, prompts):
    with_other = tlm.with_corrupted(model, prompts)
    options = {"method": "patch", "n_controls": 0, "progress": False}
    one, other = (
        tlm.module_effects(model, modules, with_other, positions=positions, **options)
        for positions in ("all", "content")
    )
    np.testing.assert_array_equal(one["effect"], other["effect"])


@unsaid
def test_every_table_says_which_tokens_were_changed(model, modules, prompts):
    options = {"n_controls": 0, "progress": False}
    paired = tlm.with_corrupted(model, prompts)
    for given, said in (
        ({}, "content"),
        ({"positions": "all"}, "all"),
        ({"method": "patch"}, "all"),
    ):
        found = tlm.module_effects(model, modules, paired, **given, **options)
        assert found["positions"].tolist() == [said] * len(found)
    columns = found.columns.tolist()
    assert columns[columns.index("controls") + 1] == "positions"
    tables = [
        tlm.concept_effects(model, modules, "animal", prompts, prompts, **options),
        tlm.dissociation(
            model, modules[0], modules[1], prompts[:2], prompts[2:4], n_controls=19, progress=False
        ).effects,
    ]
    assert [table["positions"].unique().tolist() for table in tables] == [["content"]] * 2


def test_a_first_token_that_both_prompts_share_adds_nothing(model, modules):
    """Paired runs need no positions: nothing differs at a shared first token."""
    clean, corrupted = (
        model.to_tokens(text) for text in ("the cat sat on the mat", "the dog ran on the mat")
    )
    assert torch.equal(clean[:, 0], corrupted[:, 0])

    def metric(logits):
        return logits[:, -1, 5] - logits[:, -1, 9]

    _, cache = model.run_with_cache(clean)
    options = {"reduce": "mean", "progress": False}
    by_pos = tlm.get_act_patch_module_by_pos(model, corrupted, cache, metric, modules, **options)
    unpatched = metric(model(corrupted)).mean().expand(len(modules))
    torch.testing.assert_close(by_pos[:, 0], unpatched, atol=1e-5, rtol=0)
    assert not torch.allclose(by_pos[:, 2], unpatched, atol=1e-5)
