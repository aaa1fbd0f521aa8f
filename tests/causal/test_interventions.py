"""What each method of intervention does, where it does it, and that nothing of it stays behind."""

from dataclasses import replace

import numpy as np
import pytest
import torch

import tl_modules as tlm
from tests.conftest import tiny_model

HOOK = "blocks.{}.mlp.hook_post"


@pytest.fixture(scope="module")
def reference(model, prompts):
    return tlm.collect_reference(model, prompts, n_tokens=40, n_positions=10, progress=False)


@pytest.fixture
def tokens(model):
    """Two prompts of seven tokens."""
    texts = ["the cat sat on the mat", "one plus two equals three :"]
    return torch.cat([model.to_tokens(text) for text in texts])


def activations(model, tokens, hooks=(), layer=0, **options):
    """One hook point's activations under hooks."""
    found = {}
    readers = [(HOOK.format(layer), lambda a, hook: found.update(a=a.clone()))]
    with torch.inference_mode():
        model.run_with_hooks(tokens, fwd_hooks=[*hooks, *readers], **options)
    return found["a"]


def gaps(rows, others):
    """The largest difference of each row from each other one."""
    return (rows[:, None] - others[None]).abs().amax(2)


def own(module, layer=0):
    """Which units of a layer are the module's."""
    frame = module.units.to_frame()
    mask = torch.zeros(12, dtype=torch.bool)
    mask[frame.loc[frame["layer"] == layer, "unit"].tolist()] = True
    return mask


@pytest.fixture(scope="module")
def module(modules):
    """The module with most units in the first layer."""
    return max(modules, key=lambda module: int(own(module).sum()))


def test_a_reference_holds_means_over_tokens_and_positions(model, prompts, acts, reference):
    np.testing.assert_allclose(reference.unit_means, acts.unit_means, rtol=1e-4, atol=1e-6)
    every = [model.run_with_cache(model.to_tokens(text))[1] for text in prompts["prompt"]]
    for position in (0, 4, 9):
        rows = [cache[HOOK.format(1)][0] for cache in every]
        expected = torch.stack([row[position] for row in rows if len(row) > position]).mean(0)
        found = reference.position_means[position, 12:24]
        np.testing.assert_allclose(found, expected.detach().numpy(), rtol=1e-4, atol=1e-6)


def test_a_references_tokens_are_tokens_of_the_prompts(model, prompts, reference):
    every = [model.run_with_cache(model.to_tokens(text))[1] for text in prompts["prompt"]]
    rows = torch.cat(
        [torch.cat([cache[HOOK.format(layer)][0] for layer in range(3)], dim=1) for cache in every]
    )
    distances = gaps(torch.from_numpy(reference.tokens), rows.detach())
    assert distances.min(1).values.max() < 1e-4
    assert len(reference.tokens) == 40
    # No token twice: as many nearest rows as tokens, but for prompts that begin alike.
    assert len(np.unique(reference.tokens.round(4), axis=0)) > 25


def test_position_means_go_to_their_positions_whatever_the_padding(
    model, module, reference, tokens
):
    mask = own(module)
    expected = torch.from_numpy(reference.position_means[:7, :12]).float()[:, mask]
    hooks = module.fwd_hooks("position_mean", reference)
    found = activations(model, tokens, hooks)[0][:, mask]
    torch.testing.assert_close(found, expected)
    attention = torch.ones_like(tokens)
    attention[0, :2] = 0  # two tokens of padding on the left
    hooks = module.fwd_hooks("position_mean", reference, attention_mask=attention)
    found = activations(model, tokens, hooks)[0][:, mask]
    torch.testing.assert_close(found[2:], expected[:5])


def test_positions_beyond_the_references_take_the_mean_over_all(model, module, reference):
    tokens = model.to_tokens(" ".join(["cat"] * 14))
    found = activations(model, tokens, module.fwd_hooks("position_mean", reference))
    expected = torch.from_numpy(reference.unit_means[:12]).float()[own(module)]
    torch.testing.assert_close(found[0, 12, own(module)], expected)


def test_resampled_values_are_those_of_one_token_for_all_units(model, module, reference, tokens):
    pool = torch.from_numpy(reference.tokens)
    found = [
        activations(model, tokens, module.fwd_hooks("resample", reference, seed=3), layer)
        for layer in range(3)
    ]
    together = torch.cat([a[..., own(module, layer)] for layer, a in enumerate(found)], dim=2)
    columns = torch.cat([own(module, layer) for layer in range(3)])
    distances = gaps(together.reshape(14, -1), pool[:, columns])
    assert distances.min(1).values.max() < 1e-5
    assert len(set(distances.argmin(1).tolist())) > 5
    again = activations(model, tokens, module.fwd_hooks("resample", reference, seed=3))
    other = activations(model, tokens, module.fwd_hooks("resample", reference, seed=4))
    assert torch.equal(again, found[0])
    assert not torch.equal(other, found[0])


def test_patched_values_are_the_other_runs(model, module, tokens):
    _, cache = model.run_with_cache(tokens.flip(0))
    found = activations(model, tokens, module.fwd_hooks("patch", source=cache))
    mask, name = own(module), HOOK.format(0)
    torch.testing.assert_close(found[..., mask], cache[name][..., mask])
    torch.testing.assert_close(found[..., ~mask], activations(model, tokens)[..., ~mask])


@pytest.mark.parametrize("factor", [-2.0, 0.0, 0.5])
def test_scaled_values_are_the_factor_times_their_own(model, module, tokens, factor):
    before = activations(model, tokens)
    found = activations(model, tokens, module.fwd_hooks("scale", factor=factor))
    mask = own(module)
    torch.testing.assert_close(found[..., mask], before[..., mask] * factor)
    assert torch.equal(found[..., ~mask], before[..., ~mask])


def test_what_changes_nothing_changes_no_bit(model, modules, tokens):
    nothing = modules.units.select(np.empty(0, dtype=int))
    with torch.inference_mode():
        clean = model(tokens)
        scaled = model.run_with_hooks(tokens, fwd_hooks=modules[0].fwd_hooks("scale", factor=1.0))
        nowhere = model.run_with_hooks(
            tokens, fwd_hooks=modules[0].fwd_hooks("zero", positions=torch.zeros(2, 7))
        )
        empty = model.run_with_hooks(
            tokens, fwd_hooks=replace(modules[0], units=nothing).fwd_hooks("zero")
        )
    assert torch.equal(clean, scaled)
    assert torch.equal(clean, nowhere)
    assert torch.equal(clean, empty)


def test_keep_only_changes_every_unit_but_the_modules(model, module, tokens):
    before = activations(model, tokens)
    found = activations(model, tokens, module.fwd_hooks("zero", keep_only=True))
    mask = own(module)
    assert torch.equal(found[..., mask], before[..., mask])
    assert (found[..., ~mask] == 0).all()
    # Also in layers where the module has no unit.
    assert len(module.fwd_hooks("zero", keep_only=True)) == 3


LAST_OF_EACH = torch.zeros(2, 7, dtype=torch.bool)
LAST_OF_EACH[0, 4] = LAST_OF_EACH[1, 6] = True


@pytest.mark.parametrize(
    ("positions", "touched"),
    [
        (2, [[2], [2]]),
        (-1, [[6], [6]]),
        ([0, 3], [[0, 3], [0, 3]]),
        (slice(5, None), [[5, 6], [5, 6]]),
        ("last", [[6], [6]]),
        (LAST_OF_EACH, [[4], [6]]),
        (LAST_OF_EACH.long(), [[4], [6]]),
    ],
)
def test_only_the_chosen_positions_are_touched(model, module, tokens, positions, touched):
    before = activations(model, tokens)
    found = activations(model, tokens, module.fwd_hooks("zero", positions=positions))
    for row in range(2):
        changed = (found[row] != before[row]).any(1).nonzero()[:, 0].tolist()
        assert changed == touched[row]
        assert (found[row, touched[row]][:, own(module)] == 0).all()


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_is_not_touched_and_the_last_token_is_a_real_one(model, module, tokens, side):
    attention = torch.ones(2, 7, dtype=torch.long)
    padded = slice(0, 2) if side == "left" else slice(5, 7)
    attention[0, padded] = 0
    before = activations(model, tokens)
    everywhere = module.fwd_hooks("zero", attention_mask=attention)
    changed = (activations(model, tokens, everywhere) != before).any(2)
    assert torch.equal(changed, attention.bool())
    last = module.fwd_hooks("zero", attention_mask=attention, positions="last")
    changed = (activations(model, tokens, last) != before).any(2)
    assert changed.nonzero().tolist() == [[0, 6 if side == "left" else 4], [1, 6]]


def test_interventions_work_around_generate(model, module, tokens):
    for positions in (None, "last"):
        with module.ablated(model, "zero", positions=positions):
            text = model.generate(tokens, max_new_tokens=2, do_sample=False, verbose=False)
        assert text.shape == (2, 9)


def test_positions_that_a_run_does_not_have_are_refused(model, module, tokens):
    for positions in (7, [0, -8]):
        with pytest.raises(tlm.ModulesError, match=r"positions should lie in -7\.\.6.*generate"):
            activations(model, tokens, module.fwd_hooks("zero", positions=positions))
    for name in ("positions", "attention_mask"):
        hooks = module.fwd_hooks("zero", **{name: torch.ones(2, 5)})
        with pytest.raises(tlm.ModulesError, match=f"{name} should have the shape"):
            activations(model, tokens, hooks)
    with pytest.raises(
        tlm.ModulesError, match="positions should be one of 'content', 'last'; got 'first'"
    ):
        activations(model, tokens, module.fwd_hooks("zero", positions="first"))


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        ("position_mean", {}, "needs a reference with position_means.*collect_reference"),
        ("resample", {}, "needs a reference with tokens.*collect_reference"),
        ("patch", {}, "needs the other run's activations"),
        ("patch", {"source": {}}, "source should hold 'blocks"),
        ("scale", {}, "needs a finite factor; got None"),
        ("scale", {"factor": float("nan")}, "needs a finite factor; got nan"),
    ],
)
def test_a_method_without_what_it_needs_is_refused(module, method, options, message):
    with pytest.raises(tlm.ModulesError, match=message):
        module.fwd_hooks(method, **options)


def test_a_patch_from_a_run_of_another_length_is_refused(model, module, tokens):
    _, cache = model.run_with_cache(tokens[:, :5])
    with pytest.raises(tlm.ModulesError, match="source should be a run of the same batch"):
        activations(model, tokens, module.fwd_hooks("patch", source=cache))


def test_attached_hooks_stay_until_they_are_removed(model, module, tokens):
    with torch.inference_mode():
        clean = model(tokens)
        handle = module.attach(model, "zero")
        ablated = model(tokens)
        model.reset_hooks()
        assert torch.equal(model(tokens), ablated)
        handle.remove()
        handle.remove()
        assert torch.equal(model(tokens), clean)
        assert not torch.equal(ablated, clean)
        with module.attach(model, "zero"):
            assert torch.equal(model(tokens), ablated)
        assert torch.equal(model(tokens), clean)


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_no_hook_is_left_after_an_error(model, module, tokens, error):
    with torch.inference_mode():
        clean = model(tokens)
    for within in (module.ablated, module.attach):
        with pytest.raises(error), within(model, "zero"):
            raise error
    with torch.inference_mode():
        assert torch.equal(model(tokens), clean)
    assert not any(point._forward_hooks for point in model.hook_dict.values())


def test_models_of_other_units_are_refused(other_model, module):
    with pytest.raises(tlm.ModulesError, match="hook points of width"):
        module.attach(other_model, "zero")


@pytest.mark.parametrize("method", ["zero", "mean", "position_mean", "resample", "scale"])
def test_bfloat16_models_keep_their_dtype(module, reference, method):
    model = tiny_model().to(torch.bfloat16)
    tokens = model.to_tokens("the cat sat on the mat")
    found = activations(model, tokens, module.fwd_hooks(method, reference, factor=2.0))
    assert found.dtype == torch.bfloat16


def test_gradients_flow_around_an_intervention_and_grad_mode_stays(model, module, prompts):
    tokens = model.to_tokens("the cat sat")
    assert torch.is_grad_enabled()
    logits = model.run_with_hooks(tokens, fwd_hooks=module.fwd_hooks("zero"))
    logits.sum().backward()
    model.zero_grad()
    tlm.module_effects(model, module, prompts.head(2), n_controls=1, progress=False)
    assert torch.is_grad_enabled()


def test_resampling_does_not_depend_on_padding(model, module, reference, tokens):
    hooks = {"method": "resample", "reference": reference}
    attention = torch.ones_like(tokens)
    attention[0, :2] = 0
    whole = activations(model, tokens, module.fwd_hooks(**hooks))
    padded = activations(model, tokens, module.fwd_hooks(**hooks, attention_mask=attention))
    mask = own(module)
    torch.testing.assert_close(padded[0, 2:][:, mask], whole[0, :5][:, mask])
    swapped = module.fwd_hooks(**hooks, rows=np.array([1, 0]))
    found = activations(model, tokens, swapped)
    torch.testing.assert_close(found[0][:, mask], whole[1][:, mask])


def test_a_reference_of_activations_that_are_not_finite_is_refused(model, prompts):
    def spoil(activation, hook):
        result = activation.clone()
        result[0, 1, 3] = float("nan")
        return result

    with (
        model.hooks(fwd_hooks=[(HOOK.format(1), spoil)]),
        pytest.raises(tlm.ModulesError, match=r"should be finite; at 'blocks\.1"),
    ):
        tlm.collect_reference(model, prompts, progress=False)
