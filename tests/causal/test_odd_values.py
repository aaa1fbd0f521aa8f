"""Metrics that are no numbers, 16-bit models, and tests on a single prompt."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch

import tl_modules as tlm
from tests.conftest import tiny_model, unsaid
from tests.toy import HOOKS, Toy, toy_modules
from tl_modules.causal.metrics import make_task
from tl_modules.models.losses import next_token_losses
from tl_modules.tables.prompt_frames import prompt_frame

LAST = "blocks.2.mlp.hook_post"


def effects_of(model, modules, prompts, **options):
    return tlm.module_effects(model, modules, prompts, n_controls=2, progress=False, **options)


def spoilt(activation, hook):
    """What a float16 model does once an ablation makes it overflow."""
    activation = activation.clone()
    activation[-1] = torch.nan
    return activation


@pytest.mark.parametrize("metric", ["loss", "answer_logprob", "answer_accuracy"])
def test_a_metric_that_is_no_number_is_refused_not_averaged(model, modules, prompts, metric):
    frame = prompts.head(3).assign(answer="cat", separator=" ")
    with (
        model.hooks(fwd_hooks=[(LAST, spoilt)]),
        pytest.raises(tlm.ModulesError, match=r"metric should be finite; on prompt \d it is nan"),
    ):
        effects_of(model, modules, frame, metric=metric)


def test_a_control_that_breaks_the_model_is_refused(model, modules, prompts, clean, corrupted):
    """As a missing number it would count as a control that does less harm."""
    before = None

    def break_others(activation, hook):
        nonlocal before
        before = activation.clone() if before is None else before
        return activation / 0 if len(activation) > 4 else activation

    def metric(logits):
        return logits[:, -1, 5] - logits[:, -1, 6]

    with (
        model.hooks(fwd_hooks=[(LAST, break_others)]),
        pytest.raises(tlm.ModulesError, match="metric should be finite; on prompt 0"),
    ):
        tlm.module_graph(
            model, clean, corrupted, metric, modules, n_controls=2, batch_size=8, progress=False
        )
    assert before is not None


def test_logits_at_padding_and_at_tokens_not_asked_about_do_not_matter(model):
    logits = torch.randn(2, 4, 9, generator=torch.Generator().manual_seed(0))
    tokens = torch.tensor([[1, 2, 3, 4], [5, 6, 0, 0]])
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]]).bool()
    expected = next_token_losses(logits, tokens, mask)
    logits[1, 1:] = torch.nan
    assert next_token_losses(logits, tokens, mask).tolist() == expected.tolist()
    frame = prompt_frame(["the cat sat on"]).assign(answer="dog", separator=" ")
    for metric in ("answer_logprob", "answer_accuracy"):
        task = make_task(model, frame, metric, 1, None)
        (batch,) = task.batches
        logits = torch.zeros(1, batch.tokens.shape[1], 60)
        before = task.measure(logits, batch.tokens, batch.mask, batch.rows)
        logits[:, :2] = -torch.inf  # of the prompt, which is not asked about
        after = task.measure(logits, batch.tokens, batch.mask, batch.rows)
        assert after.tolist() == before.tolist()


def test_a_reference_that_is_no_number_is_refused(model, modules, acts, prompts):
    reference = tlm.collect_reference(model, prompts, progress=False)
    for method, name in (
        ("mean", "unit_means"),
        ("position_mean", "position_means"),
        ("resample", "tokens"),
    ):
        bad = np.array(getattr(reference, name))
        bad[..., 14] = np.inf
        broken = replace(reference, **{name: bad})
        (owner,) = [module for module in modules if 14 in module.units.flat()]
        with pytest.raises(tlm.ModulesError, match=rf"{name} .* at 'blocks\.1.*index 2, they are"):
            effects_of(model, owner, prompts, method=method, reference=broken, positions="all")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_16_bit_models_effects_are_about_the_float32_models(prompts, dtype):
    one = tiny_model()
    half = copy.deepcopy(one).to(dtype)
    modules = tlm.discover(tlm.collect(one, prompts, progress=False), 2, progress=False)
    for metric in ("loss", "answer_logprob"):
        frame = prompts.assign(answer="cat", separator=" ")
        expected, found = (
            effects_of(model, modules, frame, metric=metric) for model in (one, half)
        )
        np.testing.assert_allclose(found["loss"], expected["loss"], rtol=0.01)
        np.testing.assert_allclose(found["effect"], expected["effect"], atol=0.02)


def test_changes_between_runs_of_large_16_bit_values_do_not_overflow():
    model = Toy()
    clean, corrupted = torch.tensor([[1, 1], [1, 2]]), torch.tensor([[2, 2], [2, 1]])

    def huge(activation, hook):  # c near float16's ends, of another sign in each run; d is 0
        sign = torch.where(activation[..., 1] > 0.15, -1.0, 1.0)
        return torch.stack([sign * 60000, 0 * sign], -1).half()

    def metric(logits):
        return logits[:, -1, 1].float()

    with model.hooks(fwd_hooks=[(HOOKS[1], huge)]):
        found = tlm.attribute_modules(
            model, clean, corrupted, metric, toy_modules()[1], progress=False
        )
        graph = tlm.module_graph(
            model, clean, corrupted, metric, toy_modules(), n_controls=1, progress=False
        )
    # c goes from -60000 to 60000 on the first prompt, and back on the second.
    assert found.unit_scores.tolist() == [0, 0, 0, 0]
    assert np.isfinite(graph.edges["effect"]).all()


def test_attributions_that_are_no_numbers_are_refused(model, modules, clean, corrupted):
    def metric(logits):
        return logits[:, -1, 5] - logits[:, -1, 6]

    with (
        model.hooks(fwd_hooks=[(LAST, spoilt)]),
        pytest.raises(tlm.ModulesError, match="metric and its gradients should be finite"),
    ):
        tlm.attribute_modules(model, clean, corrupted, metric, modules, progress=False)


def test_scores_that_are_all_alike_agree_with_nothing():
    import pandas as pd

    table = pd.DataFrame({"module": range(4), "score": 1.0, "exact": [1.0, 2.0, 3.0, 4.0]})
    units = tlm.Units.anonymous(4)
    assert tlm.causal.Attribution(units, np.ones(4), table, 1.0, 0.0).agreement().isna().all()


@unsaid
def test_one_prompt_gives_an_effect_and_no_interval(model, modules, prompts):
    alone = effects_of(model, modules, prompts["prompt"].head(1).tolist())
    assert np.isfinite(alone[["effect", "control_mean", "p_value"]]).all(axis=None)
    assert alone[["ci_low", "ci_high"]].isna().all(axis=None)
    some = effects_of(
        model, modules, prompts.iloc[[0, 1, 2]]
    )  # two of one category, one of another
    single = some["n"] == 1
    assert single.any()
    assert some.loc[single, ["ci_low", "ci_high"]].isna().all(axis=None)
    assert some.loc[~single, ["ci_low", "ci_high"]].notna().all(axis=None)
    assert np.isfinite(some["selectivity"]).all()
    assert some[["selectivity_ci_low", "selectivity_ci_high"]].isna().all(axis=None)


def test_single_prompts_prove_no_dissociation(model, modules, prompts):
    found = tlm.dissociation(
        model, modules[0], modules[1], prompts.head(1), prompts.iloc[[1, 3]], progress=False
    )
    single = found.effects["set"] == "A"
    assert found.effects.loc[single, "ci_low"].isna().all()
    assert found.effects.loc[~single, "ci_low"].notna().all()
    assert found.contrasts["ci_low"].isna().all()
    assert not found.is_double


@unsaid
def test_a_categorys_zero_bytes_are_a_part_of_its_name(model, modules, acts, prompts):
    frame = prompts.assign(category=[f"{name}\0" for name in prompts["category"]])
    found, expected = (effects_of(model, modules, each) for each in (frame, prompts))
    np.testing.assert_array_equal(found["effect"], expected["effect"])
    np.testing.assert_array_equal(found["ci_low"], expected["ci_low"])
    shared = tlm.shared_units(model, frame, acts, n_units=1, progress=False)
    assert np.isfinite(shared.table["effect[code\0]"]).all()


@pytest.mark.parametrize("blank", ["", "  ", None, np.nan])
def test_a_blank_category_is_refused_by_its_prompt(model, modules, acts, prompts, blank):
    categories = prompts["category"].astype(object).copy()
    categories[3] = blank
    with pytest.raises(tlm.ModulesError, match="should have a category; prompt 3 has none"):
        effects_of(model, modules, prompts.assign(category=categories))
    other = replace(acts, samples=acts.samples.assign(category=categories))
    with pytest.raises(tlm.ModulesError, match="train should have a category for every sample"):
        tlm.probe(modules, other, acts)
