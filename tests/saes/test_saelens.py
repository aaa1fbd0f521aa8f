"""Edits of latents beside SAELens' own spliced model."""

import pytest
import torch

import tl_modules as tlm
from tests.saes.made import RESID, THEIRS, read, run, saelens, theirs


@pytest.mark.parametrize("kind", [*THEIRS, "hook_z"])
def test_edits_are_those_of_saelens_own_spliced_model(model, tokens, kind):
    library = saelens()
    name = "blocks.1.attn.hook_z" if kind == "hook_z" else RESID.format(1)
    sae = theirs("none" if kind == "hook_z" else kind, name, seed=3)
    if kind == "hook_z":
        sae.cfg.reshape_activations = "hook_z"
        sae.turn_on_forward_pass_hook_z_reshaping()
    own = library.HookedSAETransformer(model.cfg).eval()
    own.load_state_dict(model.state_dict())

    def edit(latents, hook):
        latents = latents.clone()
        latents[..., ::2] = 0
        latents[..., 5] *= 4
        return latents

    latents = name + ".hook_sae_acts_post"
    spliced = tlm.with_saes(model, sae)
    assert list(spliced.sites["sae"].hook_names) == [latents]
    found = run(spliced, tokens, [(latents, edit)])
    with torch.inference_mode():
        own.add_sae(sae, use_error_term=True)
        expected = own.run_with_hooks(tokens, fwd_hooks=[(latents, edit)])
        _, cache = own.run_with_cache(tokens)
    torch.testing.assert_close(found, expected)
    assert (found - run(model, tokens)).abs().max() > 1e-2
    torch.testing.assert_close(read(spliced, tokens, latents), cache[latents])


def test_saelens_transcoders_are_refused(model):
    library = saelens()
    transcoder = library.Transcoder(
        library.TranscoderConfig(d_in=16, d_sae=24, d_out=16, apply_b_dec_to_input=False)
    )
    with pytest.raises(tlm.ModulesError, match="Transcoder writes elsewhere"):
        tlm.with_saes(model, {RESID.format(0): transcoder})
