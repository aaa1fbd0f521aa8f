from dataclasses import replace

import numpy as np
import pytest
import torch

import tl_modules as tlm


def test_a_model_without_such_hook_points_is_refused(model):
    class Bare:
        cfg, hook_dict = model.cfg, {}
        run_with_cache = run_with_hooks = hooks = to_tokens = print

    with pytest.raises(tlm.ModulesError, match=r"needs the hook points.*lacks \['blocks.0.mlp"):
        tlm.Collector(Bare())


def test_a_site_of_ones_own_gives_its_units(model):
    site = tlm.Site("mid", "blocks.{layer}.hook_resid_mid", ("d_model",))
    units = site.units(model)
    names = tuple(f"blocks.{layer}.hook_resid_mid" for layer in range(model.cfg.n_layers))
    assert units.hook_names == names
    assert units.are_whole()
    assert len(units) == model.cfg.n_layers * model.cfg.d_model
    assert (units.site, repr(site)[:17]) == ("mid", "Site(name='mid', ")


def test_units_of_a_site_of_ones_own_can_be_ablated(model, prompts):
    units = tlm.Site("mid", "blocks.{layer}.hook_resid_mid", ("d_model",)).units(model)
    some = tlm.Module(0, units.select(np.arange(5)), prompts.head(2))
    tokens = model.to_tokens(prompts["prompt"][4])
    with some.ablated(model, "zero"):
        ablated = model(tokens)
    assert not torch.equal(ablated, model(tokens))
    bare = replace(units, hook_names=("blocks.9.hook_resid_mid", *units.hook_names[1:]))
    with pytest.raises(tlm.ModulesError, match=r"lacks: \['blocks.9.hook_resid_mid'\]"):
        bare.check_model(model)
