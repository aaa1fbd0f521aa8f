"""Gradients with respect to latents."""

import pytest
import torch

import tl_modules as tlm
from tests.causal.test_patching import difference
from tests.saes.made import LATENTS, RESID, Signed, make_saes, read, run
from tl_modules.models.gradients import loss_gradients
from tl_modules.models.losses import next_token_losses


def test_gradients_by_latents_are_what_small_steps_give(spliced, tokens):
    mask = torch.ones_like(tokens, dtype=torch.bool)
    names = [LATENTS.format(layer) for layer in range(3)]
    activations, gradients = loss_gradients(spliced, tokens, mask, names)

    def loss(hooks):
        return float(next_token_losses(run(spliced, tokens, hooks), tokens, mask).sum() * 6)

    for name in names:
        assert torch.equal(activations[name], read(spliced, tokens, name))
        for row, position, latent in ((0, 2, 5), (1, 4, 17)):
            values = []
            for step in (2e-3, -2e-3):

                def shift(f, hook, row=row, position=position, latent=latent, step=step):
                    f = f.clone()
                    f[row, position, latent] += step
                    return f

                values.append(loss([(name, shift)]))
            slope = (values[0] - values[1]) / 4e-3
            assert float(gradients[name][row, position, latent]) == pytest.approx(
                slope, rel=3e-2, abs=3e-3
            )


def test_a_latents_gradient_is_the_activations_along_its_direction(model, tokens):
    sae = make_saes("random")[1]
    spliced = tlm.with_saes(model, sae)
    mask = torch.ones_like(tokens, dtype=torch.bool)
    names = [LATENTS.format(1), RESID.format(1)]
    _, gradients = loss_gradients(spliced, tokens, mask, names)
    _, plain = loss_gradients(model, tokens, mask, names[1:])
    torch.testing.assert_close(gradients[names[1]], plain[names[1]])
    along = plain[names[1]] @ sae.W_dec.detach().T
    torch.testing.assert_close(gradients[names[0]], along, rtol=1e-4, atol=1e-5)


def test_gradients_pass_through_edited_latents(model, tokens, any_saes):
    """Of the embedding, below SAEs some of whose latents are scaled."""
    spliced = tlm.with_saes(model, any_saes[:1])
    edit = [(LATENTS.format(0), lambda f, hook: 0.5 * f)]
    random = torch.Generator().manual_seed(0)
    direction = torch.randn(16, generator=random)

    def value(step):
        shift = ("hook_embed", lambda x, hook: x + step * direction)
        with torch.enable_grad():
            return difference(spliced.run_with_hooks(tokens, fwd_hooks=[shift, *edit]))

    zero = torch.zeros((), requires_grad=True)
    slope = torch.autograd.grad(value(zero), zero)[0]
    near = [float(value(torch.tensor(step)).detach()) for step in (1e-3, -1e-3)]
    assert float(slope) == pytest.approx((near[0] - near[1]) / 2e-3, rel=3e-2, abs=3e-3)


def test_the_saes_weights_get_no_gradient_and_stay_trainable(model, tokens, any_saes):
    spliced = tlm.with_saes(model, any_saes)
    parameters = [parameter for sae in any_saes for parameter in sae.parameters()]
    parameters[0].requires_grad_(False)
    before = [parameter.requires_grad for parameter in parameters]
    shift = torch.zeros((), requires_grad=True)
    hooks = [(LATENTS.format(layer), lambda f, hook: 2 * f + shift) for layer in range(3)]
    with torch.enable_grad():
        difference(spliced.run_with_hooks(tokens, fwd_hooks=hooks)).backward()
    model.zero_grad(set_to_none=True)
    assert shift.grad is not None
    assert [parameter.requires_grad for parameter in parameters] == before
    assert before.count(False) == 1
    assert all(parameter.grad is None for parameter in parameters)


def test_relevance_is_read_at_latents_of_the_stream_and_refused_at_those_of_neurons(
    spliced, model, prompts, acts
):
    options = {"estimate": "relp", "progress": False}
    found = tlm.unit_estimates(spliced, prompts, acts, **options)
    assert (found.magnitude > 0).mean() > 0.3
    of_neurons = tlm.with_saes(model, Signed("blocks.1.mlp.hook_post", 12))
    acts = tlm.collect(of_neurons, prompts, units="sae", progress=False)
    with pytest.raises(tlm.ModulesError, match=r"lacks 1, 'blocks.1.mlp.hook_post"):
        tlm.unit_estimates(of_neurons, prompts, acts, **options)
