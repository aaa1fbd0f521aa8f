"""SAEs, models and options that are refused."""

import pytest
import torch

import tl_modules as tlm
from tests.conftest import LEGACY
from tests.saes.made import D_SAE, LATENTS, RESID, Random, make_saes, read


def changed(**metadata):
    sae = Random(RESID.format(0))
    vars(sae.cfg.metadata).update(metadata)
    return sae


def nameless():
    return changed(hook_name=None)


@pytest.mark.parametrize(
    ("saes", "message"),
    [
        ([], "at least one SAE; got none"),
        (3, "encode, decode and a cfg with d_in and d_sae; got int"),
        ([Random(RESID.format(0)), torch.nn.Linear(2, 2)], "got Linear. Load one with SAELens"),
        (nameless(), "should name its hook point.*Pass a mapping"),
        (Random("blocks.0.hook_resid_pst"), "no 'blocks.0.hook_resid_pst'. Similar hook points"),
        (Random("blocks.7.hook_resid_post"), "Similar hook points: .'blocks.*hook_resid_post"),
        ({8: Random(RESID.format(0))}, "names of hook points to SAEs; got the key 8"),
        (Random("hook_embed"), "at a hook point of a layer.*got 'hook_embed'"),
        (
            make_saes("random", [1, 1]),
            "should have one SAE; the hook point of .blocks.1.hook_resid",
        ),
        (changed(hook_name_out="blocks.0.hook_mlp_out"), "writes elsewhere, at 'blocks.0.hook_mlp"),
        (changed(hook_head_index=1), "reads head 1 only"),
    ],
)
def test_what_cannot_be_spliced_is_refused(model, saes, message):
    with pytest.raises(tlm.ModulesError, match=message):
        tlm.with_saes(model, saes)


def test_a_mapping_says_where_saes_go(model, tokens):
    spliced = tlm.with_saes(model, {RESID.format(2): nameless()})
    assert spliced.sites["sae"].layers == (2,)
    assert read(spliced, tokens, LATENTS.format(2)).shape == (*tokens.shape, D_SAE)


@pytest.mark.skipif(LEGACY, reason="HookedTransformer has one name for each hook point")
def test_two_saes_at_one_hook_point_of_two_names_are_refused(model):
    assert model.hook_dict["blocks.0.hook_out"] is model.hook_dict[RESID.format(0)]
    saes = [Random(RESID.format(0)), Random("blocks.0.hook_out")]
    with pytest.raises(tlm.ModulesError, match="should have one SAE"):
        tlm.with_saes(model, saes)


def test_saes_that_do_not_fit_the_model_are_refused_when_they_run(model, prompts, tokens):
    wide = tlm.with_saes(model, Random(RESID.format(0), d_in=32))
    with pytest.raises(tlm.ModulesError, match=r"takes 32 values.*shape \(\d+, \d+, 16\)"):
        tlm.collect(wide, prompts, units="sae", progress=False)
    liar = Random(RESID.format(0))
    liar.cfg.d_sae = 25
    with pytest.raises(tlm.ModulesError, match=r"dense latents of shape \(2, 7, 25\).*returned"):
        read(tlm.with_saes(model, liar), tokens, LATENTS.format(0))


def test_models_with_saes_are_spliced_once(spliced):
    with pytest.raises(tlm.ModulesError, match=r"should have no SAEs yet.*Pass all SAEs at once"):
        tlm.with_saes(spliced, Random(RESID.format(0)))


def test_options_that_latents_do_not_know_are_refused(spliced, tokens, modules):
    hooks = modules[0].fwd_hooks("zero")
    with pytest.raises(tlm.ModulesError, match="reset_hooks_end should be True; got False"):
        spliced.run_with_hooks(tokens, fwd_hooks=hooks, reset_hooks_end=False)
    with pytest.raises(tlm.ModulesError, match="pos_slice should be None; got -1"):
        spliced.run_with_cache(tokens, pos_slice=-1)
    spliced.run_with_cache(tokens, names_filter=RESID.format(0), pos_slice=-1)


def test_the_site_needs_saes(model, prompts):
    with pytest.raises(tlm.ModulesError, match="needs a model with SAEs; 'tiny' has none"):
        tlm.collect(model, prompts, units="mlp+sae", progress=False)
    with pytest.raises(tlm.ModulesError, match=r"one of 'mlp', .*'sae'; got 'latents'"):
        tlm.collect(model, prompts, units="latents", progress=False)


def test_a_model_with_saes_is_a_hooked_model_and_passes_the_rest_on(spliced, model):
    assert isinstance(spliced, tlm.HookedModel)
    assert spliced.tokenizer is model.tokenizer
    assert set(spliced.hook_dict) - set(model.hook_dict) == {LATENTS.format(n) for n in range(3)}
    assert repr(spliced) == "SplicedModel(tiny, Units(72 of 3 hook points of width 24))"
    with pytest.raises(AttributeError):
        _ = spliced.nothing_of_the_kind
