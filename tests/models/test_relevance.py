import pytest
import torch

import tl_modules as tlm
from tests.architectures import ARCHITECTURES, hooked_model, hugging_face_model
from tests.conftest import LEGACY, tiny_model
from tl_modules.models.gradients import gradients_of
from tl_modules.models.relevance import relevance_hooks

EXPERTS = ("Mixtral", "Qwen3-MoE")
SHAPES = [(True, "RMS"), (True, "LN"), (False, "RMS"), (False, "LN"), (False, "LNPre")]


def some_tokens():
    generator = torch.Generator().manual_seed(0)
    return torch.randint(3, 40, (2, 7), generator=generator)


def one_logit(logits):
    return logits[:, -1, 5]


def gradients(model, names, hooks=None):
    tokens = some_tokens()
    mask = torch.ones_like(tokens, dtype=torch.bool)
    return gradients_of(one_logit, model, tokens, mask, names, hooks)


def relevances(model, hooks):
    """The relevance of the residual stream before each layer, one number a prompt."""
    names = [f"blocks.{layer}.hook_resid_pre" for layer in range(model.cfg.n_layers)]
    activations, by = gradients(model, names, hooks)
    return [(activations[name] * by[name]).sum((1, 2)) for name in names]


def without_biases(name):
    model = hugging_face_model(name)
    with torch.no_grad():
        for part, values in model.named_parameters():
            if part.endswith("bias"):
                values.zero_()
    return hooked_model(model, name)


@pytest.mark.parametrize(("gated", "norm"), SHAPES)
def test_the_hooks_change_no_value(gated, norm):
    model = tiny_model(gated=gated, normalization_type=norm)
    tokens = some_tokens()
    mask = torch.ones_like(tokens)
    plain = model.run_with_hooks(tokens, attention_mask=mask)
    hooks = relevance_hooks(model)
    assert torch.equal(plain, model.run_with_hooks(tokens, fwd_hooks=hooks, attention_mask=mask))
    assert not any(point.fwd_hooks for point in model.hook_dict.values())


@pytest.mark.parametrize(("gated", "norm"), SHAPES)
def test_the_streams_relevance_is_the_effect_of_removing_it(gated, norm):
    model = tiny_model(gated=gated, normalization_type=norm)
    # Without biases, no stream gives logits of 0: the effect of removing it is the logit.
    logit = one_logit(model(some_tokens())).detach()
    for found in relevances(model, relevance_hooks(model)):
        torch.testing.assert_close(found, logit, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(relevances(model, None)[0], logit, atol=0.1)


@pytest.mark.parametrize("name", [name for name in ARCHITECTURES if name not in EXPERTS])
def test_relevance_is_conserved_in_every_architecture(name):
    model = without_biases(name)
    mask = torch.ones_like(some_tokens())
    logit = one_logit(model(some_tokens(), attention_mask=mask)).detach()
    for found in relevances(model, relevance_hooks(model)):
        torch.testing.assert_close(found, logit, atol=1e-3, rtol=1e-2)  # Gemma 2 caps its logits


def test_each_factor_of_a_gated_product_gets_half():
    model = tiny_model(n_layers=1, normalization_type=None)
    names = [f"blocks.0.mlp.hook_{part}" for part in ("pre", "pre_linear", "post")]
    values, _ = gradients(model, names)
    gate, linear, _ = (values[name] for name in names)
    # Without normalisations the MLP reads the stream. A bridge's hook point is of this path alone.
    read = "blocks.0.hook_resid_mid"
    _, by = gradients(model, [read, names[2]], relevance_hooks(model))
    of_product = by[names[2]]
    to_gate = of_product * linear * torch.sigmoid(gate) / 2  # silu(x) = x sigmoid(x)
    to_linear = of_product * torch.nn.functional.silu(gate) / 2
    block = model.blocks[0].mlp
    w_gate, w_in = (weight.detach() for weight in (block.W_gate, block.W_in))
    direct = gradients(model, ["blocks.0.hook_mlp_out"])[1]["blocks.0.hook_mlp_out"]
    expected = LEGACY * direct + to_gate @ w_gate.T + to_linear @ w_in.T
    torch.testing.assert_close(by[read], expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("rules", [False, True])
def test_on_a_linear_path_the_estimate_is_the_exact_effect(rules):
    model = tiny_model(normalization_type=None)
    last = "blocks.2.mlp.hook_post"
    hooks = relevance_hooks(model) if rules else None
    activations, by = gradients(model, [last], hooks)
    expected = -(activations[last] * by[last]).sum((1, 2))
    removed = model.run_with_hooks(
        some_tokens(), fwd_hooks=[(last, lambda activation, hook: torch.zeros_like(activation))]
    )
    exact = one_logit(removed) - one_logit(model(some_tokens()))
    torch.testing.assert_close(expected, exact.detach(), atol=1e-5, rtol=1e-4)


@pytest.mark.skipif(LEGACY, reason="HookedTransformers of other shapes are tested")
@pytest.mark.parametrize("name", EXPERTS)
def test_a_model_without_its_neurons_hook_points_is_refused(name):
    model = without_biases(name)
    with pytest.raises(tlm.ModulesError, match=r"'blocks.0.mlp.hook_pre.*Use estimate='gradient'"):
        relevance_hooks(model)


def test_a_hook_point_that_the_model_does_not_compute_with_is_refused(monkeypatch):
    model = tiny_model(n_layers=1)
    name = "blocks.0.mlp.hook_pre_linear"
    point = model.hook_dict[name]
    monkeypatch.setattr(type(point), "__call__", _deaf(point, type(point).__call__))
    with pytest.raises(tlm.ModulesError, match=f"lacks 1, '{name}' first"):
        relevance_hooks(model)


def _deaf(deaf, call):
    """A call that runs one hook point's hooks, and throws away what they return."""

    def called(point, values):
        result = call(point, values)
        return values if point is deaf else result

    return called
