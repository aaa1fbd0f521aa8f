"""References of several sites, from one run."""

import dataclasses

import numpy as np

import tl_modules as tlm
from tl_modules.activations.reference import collect_references

KEPT = {"n_tokens": 9, "n_positions": 4, "seed": 3, "progress": False}


def test_several_sites_have_the_references_that_each_has_alone(model, prompts):
    sites = ["mlp", "attn_heads+mlp+resid", "attn_z"]  # they share hook points
    first, n_runs = "blocks.0.hook_resid_pre", []
    with model.hooks(fwd_hooks=[(first, lambda activation, hook: n_runs.append(1))]):
        together = collect_references(model, prompts, sites, **KEPT)
        n_together = len(n_runs)
        for site, found in zip(sites, together, strict=True):
            n_runs.clear()
            alone = tlm.collect_reference(model, prompts, units=site, **KEPT)
            assert len(n_runs) == n_together
            assert found.units.hook_names == alone.units.hook_names
            for field in dataclasses.fields(alone)[1:]:
                expected = getattr(alone, field.name)
                np.testing.assert_array_equal(getattr(found, field.name), expected)
