"""What edits of latents do to the model."""

import numpy as np
import pytest
import torch

import tl_modules as tlm
from tests.causal.test_patching import difference
from tests.saes.made import (
    D_SAE,
    LATENTS,
    NO_SAMPLES,
    RESID,
    Random,
    Signed,
    latents_of,
    make_saes,
    read,
    run,
)


def test_silencing_a_latent_takes_its_direction_away_and_keeps_the_error(
    spliced, model, tokens, acts
):
    sae = make_saes("random")[0]
    some = [3, 7, 8]
    with torch.no_grad():
        x = model.run_with_cache(tokens)[1][RESID.format(0)]
        expected = x - sae.encode(x)[..., some] @ sae.W_dec[some]
    hooks = latents_of(acts.units, some).fwd_hooks("zero")
    torch.testing.assert_close(read(spliced, tokens, RESID.format(0), hooks), expected)
    by_hand = run(model, tokens, [(RESID.format(0), lambda a, hook: expected)])
    torch.testing.assert_close(run(spliced, tokens, hooks), by_hand)
    assert (by_hand - run(model, tokens)).abs().max() > 1e-2


def test_silencing_both_signs_of_a_dimension_sets_it_to_zero(perfect, model, tokens):
    units = perfect.sites["sae"]
    hooks = latents_of(units, [5, 21], layer=1).fwd_hooks("zero")

    def zero(x, hook):
        x = x.clone()
        x[..., 5] = 0
        return x

    expected = run(model, tokens, [(RESID.format(1), zero)])
    torch.testing.assert_close(run(perfect, tokens, hooks), expected)


def test_steering_moves_the_residual_stream_along_the_decoder(spliced, model, tokens, acts):
    sae = make_saes("random")[2]
    hooks = latents_of(acts.units, [4], layer=2).fwd_hooks("scale", factor=3.0)
    with torch.no_grad():
        x = model.run_with_cache(tokens)[1][RESID.format(2)]
        expected = x + 2 * sae.encode(x)[..., 4, None] * sae.W_dec[4]
    torch.testing.assert_close(read(spliced, tokens, RESID.format(2), hooks), expected)


@pytest.mark.parametrize("method", ["zero", "mean", "position_mean", "resample", "scale"])
def test_every_method_acts_on_latents_at_chosen_positions(
    spliced, prompts, tokens, modules, method
):
    reference = tlm.collect_reference(spliced, prompts, units="sae", progress=False)
    mask = torch.ones_like(tokens)
    mask[1, 4:] = 0
    options = {"factor": 0.5} if method == "scale" else {}
    module = modules[0]
    hooks = module.fwd_hooks(method, reference, attention_mask=mask, positions="last", **options)
    before = read(spliced, tokens, LATENTS.format(0))
    after = read(spliced, tokens, LATENTS.format(0), hooks)
    own = module.units.neurons()[LATENTS.format(0)]
    at = (torch.tensor([[0], [1]]), torch.tensor([[tokens.shape[1] - 1], [3]]), own)
    expected = before.clone()
    expected[at] = after[at]
    assert torch.equal(after, expected)  # nothing else
    if method == "zero":
        assert (after[at] == 0).all()
    if method == "scale":
        torch.testing.assert_close(after[at], before[at] / 2)
    if method == "mean":
        means = torch.from_numpy(reference.content_means[own]).float()
        torch.testing.assert_close(after[at], means.expand(2, -1))
    assert not torch.equal(after, before)
    # Where no latent was touched, the residual stream is what it was.
    resid = RESID.format(0)
    changed = (read(spliced, tokens, resid, hooks) != read(spliced, tokens, resid)).any(-1)
    assert changed.nonzero().tolist() == [[0, tokens.shape[1] - 1], [1, 3]]


def test_keeping_only_a_module_silences_all_other_latents(spliced, tokens, modules):
    hooks = modules[0].fwd_hooks("zero", keep_only=True)
    after = read(spliced, tokens, LATENTS.format(0), hooks)
    own = modules[0].units.neurons()[LATENTS.format(0)]
    others = np.setdiff1d(np.arange(D_SAE), own)
    assert (after[..., others] == 0).all()
    assert torch.equal(after[..., own], read(spliced, tokens, LATENTS.format(0))[..., own])


def test_a_hook_may_write_into_the_latents_it_is_given(spliced, tokens, acts):
    def in_place(latents, hook):
        assert hook.name == LATENTS.format(0)
        latents[..., 3] = 0
        return latents

    def silently(latents, hook):
        latents[..., 3] = 0

    expected = run(spliced, tokens, latents_of(acts.units, [3]).fwd_hooks("zero"))
    assert not torch.equal(expected, run(spliced, tokens))
    for hook in (in_place, silently):
        assert torch.equal(run(spliced, tokens, [(LATENTS.format(0), hook)]), expected)


def test_hooks_may_be_chosen_by_a_function_of_the_name(spliced, model, tokens):
    seen = []
    hook = (
        lambda name: name.startswith("blocks.2.hook_resid_post"),
        lambda a, hook: seen.append(a),
    )
    run(spliced, tokens, [hook])
    assert sorted(a.shape[-1] for a in seen) == [16, D_SAE]


def test_patching_all_latents_keeps_the_corrupted_error(model, clean, corrupted):
    sae = make_saes("random")[1]
    spliced = tlm.with_saes(model, sae)
    with torch.inference_mode():
        cache = spliced.run_with_cache(clean)[1]
        x = model.run_with_cache(corrupted)[1][RESID.format(1)]
        there = x + sae.decode(cache[LATENTS.format(1)]) - sae.decode(sae.encode(x))
        expected = model.run_with_hooks(
            corrupted, fwd_hooks=[(RESID.format(1), lambda a, hook: there)]
        )
    every = tlm.Module(0, spliced.sites["sae"], NO_SAMPLES)
    found = tlm.get_act_patch_module(spliced, corrupted, cache, difference, every, progress=False)
    torch.testing.assert_close(found[0], difference(expected))
    found = tlm.get_act_patch_module(spliced, clean, cache, difference, every, progress=False)
    assert found[0] == difference(run(model, clean))  # its own values: nothing to patch


def test_patching_an_sae_without_error_is_patching_its_hook_point(perfect, clean, corrupted):
    with torch.inference_mode():
        cache = perfect.run_with_cache(clean)[1]
    every = tlm.Module(0, perfect.sites["sae"], NO_SAMPLES)
    found = tlm.get_act_patch_module(perfect, corrupted, cache, difference, every, progress=False)
    torch.testing.assert_close(found[0], difference(run(perfect, clean)))


def test_hooks_at_the_same_place_see_the_edited_activation(spliced, model, tokens, acts):
    # Whichever was there first: an edit of latents, then the hook point's own hooks.
    module = latents_of(acts.units, range(D_SAE))
    latents = read(spliced, tokens, LATENTS.format(0))
    own = (RESID.format(0), lambda a, hook: a + 1)
    plain = read(spliced, tokens, RESID.format(0), module.fwd_hooks("zero"))
    with spliced.hooks([own]), module.ablated(spliced, "zero"):
        torch.testing.assert_close(read(spliced, tokens, RESID.format(0)), plain + 1)
    torch.testing.assert_close(read(spliced, tokens, LATENTS.format(0), [own]), latents)


def test_latents_are_in_the_saes_dtype_and_the_model_keeps_its_own(model, tokens):
    sae = Random(RESID.format(1)).double()
    spliced = tlm.with_saes(model, sae)
    halve = [(LATENTS.format(1), lambda f, hook: f / 2)]
    assert read(spliced, tokens, LATENTS.format(1)).dtype == torch.float64
    found = read(spliced, tokens, RESID.format(1), halve)
    assert found.dtype == torch.float32
    expected = read(tlm.with_saes(model, sae.float()), tokens, RESID.format(1), halve)
    torch.testing.assert_close(found, expected)


def test_attention_heads_come_flat_or_apart_as_the_sae_wants_them(model, tokens):
    name = "blocks.1.attn.hook_z"

    class Heads(Signed):
        """As SAELens' hook_z SAEs: joins the heads itself."""

        def encode(self, x):
            assert x.shape[-2:] == (2, 8)
            return super().encode(x.flatten(-2))

        def decode(self, latents):
            return super().decode(latents).unflatten(-1, (2, 8))

    apart = Heads(name)
    apart.cfg.reshape_activations = "hook_z"

    def zero(z, hook):
        z = z.clone()
        z[..., 1, 3] = 0
        return z

    expected = run(model, tokens, [(name, zero)])
    for sae in (Signed(name), apart):
        spliced = tlm.with_saes(model, sae)
        hooks = latents_of(spliced.sites["sae"], [11, 27]).fwd_hooks("zero")
        torch.testing.assert_close(run(spliced, tokens, hooks), expected)
