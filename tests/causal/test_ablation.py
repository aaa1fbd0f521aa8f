import numpy as np
import pytest
import torch

import tl_modules as tlm
from tests.related.test_refusals import untyped
from tl_modules.interventions.hooks import Edit
from tl_modules.interventions.positions import Where

HOOK = "blocks.{}.mlp.hook_post"


def set_to(value):
    """A hook that sets the middle of three units."""
    return Edit("here", 3, np.array([1]), lambda old, where: old * 0 + value, Where())


def cached(model, tokens):
    _, cache = model.run_with_cache(tokens)
    return [cache[HOOK.format(layer)] for layer in range(model.cfg.n_layers)]


def layer_mask(module, layer):
    mask = torch.zeros(12, dtype=torch.bool)
    frame = module.units.to_frame()
    mask[frame.loc[frame["layer"] == layer, "unit"].tolist()] = True
    return mask


@pytest.fixture
def tokens(model):
    return model.to_tokens("the cat sat on the mat")


@pytest.mark.parametrize("method", ["zero", "mean"])
def test_exactly_the_modules_units_are_overwritten_at_every_position(
    model, modules, acts, tokens, method
):
    module = modules[1]
    with torch.inference_mode(), module.ablated(model, method=method):
        found = cached(model, tokens)
    clean = cached(model, tokens)
    for layer in range(3):
        mask = layer_mask(module, layer)
        means = torch.from_numpy(acts.unit_means[12 * layer : 12 * (layer + 1)])
        expected = torch.zeros(12) if method == "zero" else means
        seen = found[layer][0, :, mask]
        torch.testing.assert_close(seen, expected[mask].expand_as(seen))
        if layer == 0:  # nothing upstream of it has changed
            torch.testing.assert_close(found[0][0, :, ~mask], clean[0][0, :, ~mask])


@pytest.mark.parametrize("method", ["zero", "mean"])
def test_logits_equal_hooks_written_by_hand(model, modules, acts, tokens, method):
    module = modules[2]

    def by_hand(layer):
        mask = layer_mask(module, layer)
        means = torch.from_numpy(acts.unit_means[12 * layer : 12 * (layer + 1)])
        values = torch.zeros(12) if method == "zero" else means
        return lambda activation, hook: torch.where(mask, values, activation)

    hooks = [(HOOK.format(layer), by_hand(layer)) for layer in range(3)]
    with torch.inference_mode():
        expected = model.run_with_hooks(tokens, fwd_hooks=hooks)
        found = model.run_with_hooks(tokens, fwd_hooks=module.fwd_hooks(method))
        clean = model(tokens)
    torch.testing.assert_close(found, expected)
    assert not torch.allclose(found, clean)


def test_zero_ablation_equals_removing_the_neurons_output_weights(model, modules, tokens):
    module = modules[0]
    with torch.inference_mode():
        found = model.run_with_hooks(tokens, fwd_hooks=module.fwd_hooks("zero"))
        hooks = []
        for layer in range(3):
            index = layer_mask(module, layer).nonzero()[:, 0]

            def without(resid_mlp, hook, layer=layer, index=index):
                lost = seen[layer][..., index] @ weights[layer][index]
                return resid_mlp - lost

            hooks.append((f"blocks.{layer}.hook_mlp_out", without))
        seen: dict = {}
        weights = [model.W_out[layer] for layer in range(3)]
        readers = [
            (HOOK.format(layer), lambda a, hook, layer=layer: seen.__setitem__(layer, a))
            for layer in range(3)
        ]
        expected = model.run_with_hooks(tokens, fwd_hooks=readers + hooks)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


def test_another_reference_gives_its_own_means(model, modules, tokens):
    other = tlm.collect(model, ["cat dog bird", "red green"], progress=False)
    module = modules[0]
    with torch.inference_mode(), module.ablated(model, method="mean", reference=other):
        found = cached(model, tokens)
    mask = layer_mask(module, 1)
    expected = torch.from_numpy(other.unit_means[12:24])[mask]
    seen = found[1][0, :, mask]
    torch.testing.assert_close(seen, expected.expand_as(seen))


def n_hooks(model):
    return sum(len(point.fwd_hooks) for point in model.hook_dict.values())


def test_hooks_are_gone_afterwards_also_after_an_exception(model, modules, tokens):
    before = model(tokens)
    with modules[0].ablated(model):
        assert n_hooks(model) > 0
    assert n_hooks(model) == 0
    with pytest.raises(RuntimeError, match="on purpose"), modules[0].ablated(model):
        raise RuntimeError("on purpose")
    assert n_hooks(model) == 0
    torch.testing.assert_close(model(tokens), before)


def test_the_users_own_hooks_stay(model, modules, tokens):
    calls = []
    with model.hooks(fwd_hooks=[(HOOK.format(0), lambda a, hook: calls.append(1))]):
        with modules[0].ablated(model):
            model(tokens)
        model(tokens)
    assert len(calls) == 2


def test_modules_can_be_ablated_together(model, modules, tokens):
    with torch.inference_mode(), modules[0].ablated(model, "zero"):
        with modules[1].ablated(model, "zero"):
            nested = model(tokens)
        pairs = modules[0].fwd_hooks("zero") + modules[1].fwd_hooks("zero")
    with torch.inference_mode():
        together = model.run_with_hooks(tokens, fwd_hooks=pairs)
    torch.testing.assert_close(nested, together)


def test_ablation_works_around_generate(model, modules, tokens):
    with modules[0].ablated(model, "zero"):
        text = model.generate(tokens, max_new_tokens=3, do_sample=False, verbose=False)
    assert text.shape[1] == tokens.shape[1] + 3


def test_the_tensor_given_to_a_hook_is_not_changed():
    activation = torch.ones(1, 2, 3)
    result = set_to(5.0)(activation)
    assert activation.sum() == 6
    assert result[0].tolist() == [[1, 5, 1], [1, 5, 1]]


def test_half_precision_stays_half_precision():
    activation = torch.ones(1, 2, 3, dtype=torch.bfloat16)
    result = set_to(0.1)(activation)
    assert result.dtype == torch.bfloat16


def test_an_unknown_method_is_refused(modules):
    for wrong in ("men", ""):
        said = rf"one of 'zero', 'mean', .*; got '{wrong}'"
        with untyped(), pytest.raises(tlm.ModulesError, match=said):
            modules[0].fwd_hooks(wrong)


def test_mean_ablation_without_means_is_refused_with_the_remedy(model, acts, prompts):
    bare = tlm.ActivationMatrix.from_arrays(acts.values, acts.units, prompts)
    module = tlm.discover(bare, 3)[0]
    with pytest.raises(tlm.ModulesError, match=r"Pass reference=tlm.collect\(model, prompts\)"):
        module.fwd_hooks("mean")
    assert module.fwd_hooks("mean", reference=acts)


def test_modules_of_another_model_are_refused(model, other_model, modules, prompts):
    with (
        pytest.raises(
            tlm.ModulesError, match=r"3 hook points of width 12.*2 hook points of width 8"
        ),
        modules[0].ablated(other_model),
    ):
        pass
    other = tlm.collect(other_model, prompts, progress=False)
    with pytest.raises(tlm.ModulesError, match="reference should come from the same model"):
        modules[0].fwd_hooks("mean", reference=other)
    tokens = other_model.to_tokens("the cat")
    pairs = [pair for pair in modules[0].fwd_hooks("zero") if "blocks.2" not in pair[0]]
    with pytest.raises(tlm.ModulesError, match="are among 12; the activation there has shape"):
        other_model.run_with_hooks(tokens, fwd_hooks=pairs)


def test_modules_of_a_nameless_matrix_cannot_be_hooked(model, planted):
    module = tlm.discover(tlm.ActivationMatrix.from_arrays(planted[0]), 4)[0]
    with (
        pytest.raises(tlm.ModulesError, match="no hook point is known"),
        module.ablated(model, "zero"),
    ):
        pass
