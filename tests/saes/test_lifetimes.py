"""How long edits of latents last."""

import pytest
import torch

import tl_modules as tlm
from tests.saes.made import LATENTS, NO_SAMPLES, RESID, attached_hooks, run


def test_edits_last_as_long_as_their_context(spliced, model, tokens, modules):
    module = modules[1]
    with torch.inference_mode():
        plain = model(tokens)
        edited = run(spliced, tokens, module.fwd_hooks("zero"))
        with module.ablated(spliced, "zero") as same:
            assert torch.equal(same(tokens), edited)
            own = module.units.neurons()[LATENTS.format(1)]
            _, cache = spliced.run_with_cache(tokens)
            assert (cache[LATENTS.format(1)][..., own] == 0).all()
            nested = modules[0].fwd_hooks("zero")
            every = run(spliced, tokens, nested)
            assert torch.equal(every, run(spliced, tokens, nested))
            text = same.generate(tokens[:1], max_new_tokens=3, verbose=False, do_sample=False)
        assert torch.equal(spliced(tokens), plain)
        assert attached_hooks(model) == []
        expected = tokens[:1]
        for _ in range(3):
            step = run(spliced, expected, module.fwd_hooks("zero"))[:, -1].argmax(-1, keepdim=True)
            expected = torch.cat([expected, step], 1)
    assert torch.equal(text, expected)
    both = tlm.Module(0, modules.units, NO_SAMPLES).fwd_hooks("zero")
    torch.testing.assert_close(every, run(spliced, tokens, both))


def test_attached_edits_stay_until_removed(spliced, model, tokens, modules):
    with torch.inference_mode():
        plain = model(tokens)
        edited = run(spliced, tokens, modules[0].fwd_hooks("zero"))
        handle = modules[0].attach(spliced, "zero")
        with pytest.warns(UserWarning, match="attached to this model already"):
            second = modules[0].attach(spliced, "zero")
        model.reset_hooks()
        second.remove()
        second.remove()
        assert torch.equal(model(tokens), edited)
        handle.remove()
        assert torch.equal(model(tokens), plain)


def test_errors_leave_no_hook_behind(spliced, model, tokens, modules):
    def fail(latents, hook):
        raise RuntimeError("from the hook")

    bad = [*modules[0].fwd_hooks("zero"), (LATENTS.format(2), fail)]
    with pytest.raises(RuntimeError, match="from the hook"):
        spliced.run_with_hooks(tokens, fwd_hooks=bad)
    assert attached_hooks(model) == []
    with pytest.raises(RuntimeError, match="from the hook"), spliced.hooks(fwd_hooks=bad):
        spliced(tokens)
    assert attached_hooks(model) == []
    with pytest.raises(KeyError):
        spliced.run_with_hooks(tokens, fwd_hooks=[*modules[0].fwd_hooks("zero"), ("no", fail)])
    above = (RESID.format(2), fail)
    with spliced.hooks([above]), pytest.raises(RuntimeError, match="from the hook"):
        spliced.run_with_cache(tokens, names_filter=LATENTS.format(0))
    assert attached_hooks(model) == []
