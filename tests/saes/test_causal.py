"""Causal tests of modules of latents."""

import numpy as np
import pytest
import torch

import tl_modules as tlm
from tests.causal.test_patching import difference, each
from tests.conftest import unsaid
from tests.saes.made import D_SAE, LATENTS, RESID, Random, run


@unsaid
def test_modules_of_latents_have_effects_beside_controls(spliced, prompts, modules):
    prompts = prompts.groupby("category").head(3)
    for kind in ("layer", "magnitude", "attribution"):
        found = tlm.module_effects(
            spliced, modules, prompts, n_controls=2, controls=kind, progress=False
        )
        assert np.isfinite(found[["effect", "control_mean"]]).all(axis=None)
        assert found["effect"].abs().max() > 1e-4
    few = {"n_controls": 0, "progress": False}
    at_once = tlm.module_effects(spliced, modules, prompts, batch_size=6, **few)
    by_one = tlm.module_effects(spliced, modules, prompts, batch_size=1, **few)
    np.testing.assert_allclose(at_once["effect"], by_one["effect"], atol=1e-5)


@unsaid
def test_latents_and_neurons_share_a_partition(spliced, model, prompts, acts):
    both = tlm.collect(spliced, prompts, units="mlp+sae", progress=False)
    neurons = tlm.collect(model, prompts, progress=False)
    parts = np.concatenate([neurons.values, acts.values], axis=1)
    np.testing.assert_allclose(both.values, parts, rtol=1e-5, atol=1e-7)
    modules = tlm.discover(both, 2)
    found = tlm.module_effects(spliced, modules, prompts, n_controls=1, progress=False)
    assert np.isfinite(found["effect"]).all()


def test_attributions_and_attribution_weights_are_of_latents(
    spliced, prompts, clean, corrupted, acts, modules
):
    found = tlm.attribute_modules(spliced, clean, corrupted, difference, modules, exact=True)
    assert found.unit_scores.shape == (3 * D_SAE,)
    with torch.inference_mode():
        one, other = (spliced.run_with_cache(tokens)[1] for tokens in (clean, corrupted))
    latent = int(np.abs(found.unit_scores[:D_SAE]).argmax())
    change = (one[LATENTS.format(0)] - other[LATENTS.format(0)])[..., latent]
    values = []
    for step in (1e-2, -1e-2):

        def shift(f, hook, step=step):
            f = f.clone()
            f[..., latent] += step * change
            return f

        values.append(difference(run(spliced, corrupted, [(LATENTS.format(0), shift)])))
    slope = float(values[0] - values[1]) / 2e-2
    assert found.unit_scores[latent] == pytest.approx(slope, rel=5e-2, abs=2e-4)
    weighted = tlm.collect(spliced, prompts, units="sae", weight="attribution", progress=False)
    np.testing.assert_allclose(weighted.unit_means, acts.unit_means, rtol=1e-4, atol=1e-6)


def test_graphs_and_circuits_of_latents(spliced, clean, corrupted, modules):
    options = {"n_controls": 1, "progress": False}
    graph = tlm.module_graph(spliced, clean, corrupted, each, modules, **options)
    assert np.isfinite(graph.edges["effect"]).all()
    every = tlm.circuit_scores(spliced, clean, corrupted, each, modules, [0, 1], **options)
    assert every.faithfulness == pytest.approx(1, abs=1e-4)


def test_files_keep_modules_of_latents_for_models_with_saes(
    spliced, model, perfect, modules, tmp_path
):
    modules.save(tmp_path / "modules.safetensors")
    again = tlm.ModuleSet.load(tmp_path / "modules.safetensors")
    again.units.check_model(spliced)
    with pytest.raises(tlm.ModulesError, match=r"'tiny' has none. Use tlm.with_saes\(model"):
        again.units.check_model(model)
    with pytest.raises(
        tlm.ModulesError, match=r"hook points of width 24, 'tiny' has 3 .* width 32"
    ):
        again.units.check_model(perfect)


def test_an_sae_trained_on_the_model_gives_modules_that_matter(model, prompts):
    name = RESID.format(1)
    with torch.no_grad():
        runs = [model.run_with_cache(model.to_tokens(text))[1] for text in prompts["prompt"]]
    x = torch.cat([cache[name][0] for cache in runs]).clone()
    sae = Random(name, d_sae=48)
    optimiser = torch.optim.Adam(sae.parameters(), lr=2e-2)
    with torch.enable_grad():
        for _ in range(200):
            latents = sae.encode(x)
            loss = (sae.decode(latents) - x).square().sum(1).mean() + 1e-3 * latents.sum(1).mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    with torch.no_grad():
        error = (x - sae.decode(sae.encode(x))).square().sum()
    assert error < 0.5 * (x - x.mean(0)).square().sum()
    spliced = tlm.with_saes(model, sae)
    modules = tlm.discover(tlm.collect(spliced, prompts, units="sae", progress=False), 2)
    few = prompts.groupby("category").head(3)
    effects = tlm.module_effects(spliced, modules, few, n_controls=1, progress=False)
    assert effects["effect"].max() > 0.01
