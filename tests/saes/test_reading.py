"""What is read of SAEs' latents, and what reading them leaves as it was."""

import numpy as np
import pytest
import torch

import tl_modules as tlm
from tests.saes.made import D_SAE, LATENTS, RESID, Random, attached_hooks, make_saes, run


def test_latents_are_collected_as_the_saes_encode_them(model, prompts, any_saes):
    spliced = tlm.with_saes(model, any_saes)
    acts = tlm.collect(spliced, prompts, units="sae", progress=False)
    assert acts.values.shape == (len(prompts), 3 * D_SAE)
    for row in (0, 5):
        cache = model.run_with_cache(model.to_tokens(prompts["prompt"][row]))[1]
        with torch.inference_mode():
            expected = [
                sae.encode(cache[RESID.format(layer)])[0].abs().mean(0)
                for layer, sae in enumerate(any_saes)
            ]
        np.testing.assert_allclose(acts.values[row], torch.cat(expected), rtol=1e-4, atol=1e-6)


def test_latents_are_units_of_their_layers_in_any_order_of_the_saes(model, acts):
    frame = acts.units.to_frame()
    assert acts.units.site == "sae"
    assert frame["layer"].tolist() == [0] * D_SAE + [1] * D_SAE + [2] * D_SAE
    assert frame["hook_name"][D_SAE] == LATENTS.format(1)
    backwards = tlm.with_saes(model, make_saes("random")[::-1])
    acts.units.check_model(backwards)


def test_caches_of_latents_give_the_same_matrix(spliced, prompts, acts):
    collector = tlm.Collector(spliced, units="sae")
    for text in prompts["prompt"][:3]:
        with torch.inference_mode():
            tokens = spliced.to_tokens(text)
            _, cache = spliced.run_with_cache(tokens, names_filter=collector.names_filter)
        collector.add(cache)
    np.testing.assert_allclose(collector.matrix().values, acts.values[:3], rtol=1e-4, atol=1e-7)


def test_a_cache_holds_the_latents_that_the_filter_names(spliced, model, tokens):
    def names(names_filter, **options):
        with torch.inference_mode():
            return set(
                spliced.run_with_cache(tokens, names_filter=names_filter, **options)[1].keys()
            )

    latents, resid = LATENTS.format(1), RESID.format(2)
    every = {LATENTS.format(layer) for layer in range(3)}
    with torch.inference_mode():
        assert names(None) == every | set(model.run_with_cache(tokens)[1].keys())
        own = set(model.run_with_cache(tokens, names_filter=resid)[1].keys())
    assert names(latents) == {latents}
    assert names([latents, resid]) == {latents} | own
    assert names(lambda name: name.endswith("acts_post")) == every
    assert names(latents, return_cache_object=False) == {latents}
    with torch.inference_mode():
        _, whole = spliced.run_with_cache(tokens[:1])
        _, one = spliced.run_with_cache(tokens[:1], names_filter=latents, remove_batch_dim=True)
    assert torch.equal(one[latents], whole[latents][0])


def test_without_hooks_on_latents_the_sae_does_not_run(model, tokens):
    sae = Random(RESID.format(1))
    sae.encode = lambda x: pytest.fail("the SAE ran")
    spliced = tlm.with_saes(model, sae)
    assert attached_hooks(spliced.model) == []
    with torch.inference_mode():
        assert torch.equal(spliced(tokens), model(tokens))
        assert torch.equal(run(spliced, tokens), model(tokens))
        spliced.run_with_cache(tokens, names_filter=RESID.format(1))


def test_reading_latents_changes_nothing_to_the_last_bit(model, tokens, any_saes):
    spliced = tlm.with_saes(model, any_saes)
    with torch.inference_mode():
        plain = model(tokens)
        assert torch.equal(spliced.run_with_cache(tokens)[0], plain)
    same = [(LATENTS.format(layer), lambda f, hook: f.clone()) for layer in range(3)]
    assert torch.equal(run(spliced, tokens, same), plain)
