"""What an optimizer may change, bit for bit."""

import pytest
import torch

import tl_modules as tlm
from tests.conftest import tiny_model
from tests.related.test_refusals import untyped
from tests.training.test_masks import some_units

OPTIMIZERS = {
    "AdamW": lambda parameters: torch.optim.AdamW(parameters, lr=0.01, weight_decay=0.1),
    "SGD": lambda parameters: torch.optim.SGD(
        parameters, lr=0.01, momentum=0.9, weight_decay=0.1, nesterov=True
    ),
    "Adagrad": lambda parameters: torch.optim.Adagrad(parameters, lr=0.01, weight_decay=0.1),
}


def step(model, optimizer):
    optimizer.zero_grad()
    tokens = torch.arange(3, 15)[None]
    logits = model(tokens)
    torch.nn.functional.cross_entropy(logits[0, :-1], tokens[0, 1:]).backward()
    optimizer.step()


def weights(model):
    return {name: each.detach().clone() for name, each in model.named_parameters()}


def moved(before, after):
    """Where the bits differ."""
    return {
        name: before[name].view(torch.int32) != after[name].view(torch.int32) for name in before
    }


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_only_the_modules_entries_move_whatever_decay_and_momentum_do(kind):
    model = tiny_model()
    units = some_units(model)
    masks = tlm.training.parameter_masks(model, units)
    optimizer = OPTIMIZERS[kind](model.parameters())
    step(model, optimizer)  # fills momentum, and leaves gradients everywhere
    before = weights(model)
    with tlm.training.training_only(model, units, optimizer):
        for _ in range(3):
            step(model, optimizer)
    changed = moved(before, weights(model))
    for name, where in changed.items():
        if name in masks:
            assert not where[~masks[name]].any()
            assert where[masks[name]].float().mean() > 0.9
        else:
            assert not where.any()
    step(model, optimizer)
    assert all(where.any() for where in moved(before, weights(model)).values())


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_all_but_the_modules_entries_move(kind):
    model = tiny_model()
    units = some_units(model)
    masks = tlm.training.parameter_masks(model, units)
    optimizer = OPTIMIZERS[kind](model.parameters())
    step(model, optimizer)
    before = weights(model)
    with tlm.training.training_all_but(model, units, optimizer):
        for _ in range(3):
            step(model, optimizer)
    changed = moved(before, weights(model))
    for name, where in changed.items():
        kept = masks.get(name, torch.zeros_like(where))
        assert not where[kept].any()
        assert where[~kept].any()
    step(model, optimizer)
    assert (
        any(where[masks[name]].any() for name, where in changed.items() if name in masks) is False
    )
    assert any(moved(before, weights(model))[name][mask].any() for name, mask in masks.items())


def test_gradients_outside_are_zero_before_the_step_as_clipping_needs():
    model = tiny_model()
    units = some_units(model)
    masks = tlm.training.parameter_masks(model, units)
    optimizer = OPTIMIZERS["SGD"](model.parameters())
    with tlm.training.training_only(model, units, optimizer):
        step(model, optimizer)
        for name, parameter in model.named_parameters():
            assert parameter.requires_grad == (name in masks)
            if name in masks:
                assert not parameter.grad[~masks[name]].any()
                assert parameter.grad[masks[name]].any()
            else:
                assert parameter.grad is None


def test_everything_is_as_it_was_after_an_exception():
    model = tiny_model()
    frozen = next(iter(model.parameters())).requires_grad_(False)
    optimizer = OPTIMIZERS["AdamW"](model.parameters())
    step(model, optimizer)
    gradients = {name: each.grad for name, each in model.named_parameters()}
    for limits in (tlm.training.training_only, tlm.training.training_all_but):
        with pytest.raises(KeyboardInterrupt), limits(model, some_units(model), optimizer):
            raise KeyboardInterrupt
    for name, each in model.named_parameters():
        assert each.requires_grad == (each is not frozen)
        assert each.grad is gradients[name]
        assert not each._backward_hooks
    assert not optimizer._optimizer_step_pre_hooks
    assert not optimizer._optimizer_step_post_hooks


def test_an_optimizer_of_something_else_is_refused():
    model = tiny_model()
    optimizer = torch.optim.SGD(tiny_model(seed=1).parameters(), lr=0.1)
    for limits in (tlm.training.training_only, tlm.training.training_all_but):
        with (
            pytest.raises(tlm.ModulesError, match="should have some of the"),
            limits(model, some_units(model), optimizer),
        ):
            pass


def test_what_is_no_module_or_no_optimizer_is_refused(modules):
    model = tiny_model()
    optimizer = OPTIMIZERS["SGD"](model.parameters())
    for limits in (tlm.training.training_only, tlm.training.training_all_but):
        for given, said in (
            ((modules[0], None), "should be a torch.optim optimizer; got None. Make one of"),
            ((modules, optimizer), "should be one module or units; got ModuleSet"),
        ):
            with (
                untyped(),
                pytest.raises(tlm.ModulesError, match=said),
                limits(model, *given),
            ):
                pass
