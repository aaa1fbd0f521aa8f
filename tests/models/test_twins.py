import itertools

import pytest
import torch

import tl_modules as tlm
from tests.conftest import tiny_model


def test_the_twin_has_other_weights_of_the_same_mean_and_spread(model):
    before = {name: weight.clone() for name, weight in model.named_parameters()}
    twin = tlm.untrained_twin(model)
    assert twin is not model
    for name, weight in twin.named_parameters():
        own = before[name]
        assert torch.equal(dict(model.named_parameters())[name], own)
        assert weight.shape == own.shape
        if own.numel() > 100:
            assert not torch.allclose(weight, own)
            error = own.std() * 5 / own.numel() ** 0.5
            assert abs(weight.mean() - own.mean()) < error
            assert abs(weight.std() - own.std()) < error


def test_the_twin_runs_with_its_own_weights_and_hooks(model):
    tokens = torch.arange(3, 9)[None]
    twin = tlm.untrained_twin(model)
    with torch.inference_mode():
        logits, of_model = twin(tokens), model(tokens)
        again = tlm.untrained_twin(model)(tokens)
        other = tlm.untrained_twin(model, seed=1)(tokens)
    assert logits.isfinite().all()
    assert torch.equal(logits, again)
    assert not torch.allclose(logits, of_model)
    assert not torch.allclose(logits, other)
    # A hook of the twin changes the twin alone.
    name = "blocks.0.mlp.hook_post"
    seen = []
    twin.run_with_hooks(tokens, fwd_hooks=[(name, lambda value, hook: seen.append(value))])
    assert len(seen) == 1
    model.run_with_hooks(tokens)
    assert len(seen) == 1


def test_changing_the_model_leaves_the_twin_alone():
    model = tiny_model()
    tokens = torch.arange(3, 9)[None]
    twin = tlm.untrained_twin(model)
    with torch.inference_mode():
        before = twin(tokens).clone()
        for weight in model.parameters():
            weight.zero_()
        assert torch.equal(twin(tokens), before)


def test_a_model_with_hooks_is_refused(modules):
    model = tiny_model()
    handle = modules[0].attach(model, method="zero")
    try:
        with pytest.raises(tlm.ModulesError, match="should have no hooks"):
            tlm.untrained_twin(model)
    finally:
        handle.remove()
    tlm.untrained_twin(model)


def test_a_weight_that_two_layers_share_stays_shared():
    model = tiny_model()
    weights = dict(model.named_parameters())
    pairs = itertools.combinations(weights, 2)
    first, second = next(pair for pair in pairs if weights[pair[0]].shape == weights[pair[1]].shape)
    folder, _, name = second.rpartition(".")
    setattr(model.get_submodule(folder), name, weights[first])
    twin = tlm.untrained_twin(model)
    assert twin.get_parameter(first) is twin.get_parameter(second)


def test_a_model_without_floating_point_weights_is_refused(model):
    import copy

    quantised = copy.deepcopy(model)
    for module in quantised.modules():
        for name, weight in list(module.named_parameters(recurse=False)):
            fixed = torch.nn.Parameter(weight.detach().to(torch.int8), requires_grad=False)
            setattr(module, name, fixed)
    with pytest.raises(tlm.ModulesError, match="floating point numbers; it has none"):
        tlm.untrained_twin(quantised)
