"""Unlearning by the loss of answers, of prompts and of both, against gradients worked by hand."""

import numpy as np
import pandas as pd
import pytest
import torch

import tl_modules as tlm
from tests.conftest import tiny_model
from tests.training.test_limited import weights
from tests.training.test_masks import some_units

FORGET = pd.DataFrame(
    {
        "prompt": ["the cat sat on", "a dog", "one bird flew over the"],
        "answer": ["the mat", "ran over the mat", "house"],
        "separator": " ",
    }
)
RETAIN = pd.DataFrame({"prompt": ["def if", "print ("], "answer": [" return", " one ) :"]})
QUIET = {"progress": False}
SGD = {"n_steps": 1, "learning_rate": 0.5, "rectify": False, "optimizer": torch.optim.SGD, **QUIET}
CHOICES = ("prompt", "answer", "all")


def token_losses(model, frame, loss_on):
    """The losses of the named tokens, a tensor per prompt, each run alone."""
    found = []
    separators = frame["separator"] if "separator" in frame else [""] * len(frame)
    for prompt, space, answer in zip(frame["prompt"], separators, frame["answer"], strict=True):
        start = model.to_tokens(prompt).shape[1]
        tokens = model.to_tokens(prompt + space + answer)
        logprobs = model(tokens)[0, :-1].log_softmax(-1)
        losses = -logprobs.gather(1, tokens[0, 1:, None])[:, 0]
        parts = {"prompt": losses[: start - 1], "answer": losses[start - 1 :], "all": losses}
        found.append(parts[loss_on])
    return found


@pytest.mark.parametrize("loss_on", CHOICES)
@pytest.mark.parametrize("positions", ["all", "content"])
def test_a_step_follows_the_gradient_of_the_named_tokens(loss_on, positions):
    model = tiny_model()
    units = some_units(model)
    masks = tlm.training.parameter_masks(model, units)
    named = dict(model.named_parameters())
    losses = torch.cat(token_losses(model, FORGET, loss_on))
    found = torch.autograd.grad(losses.mean(), [named[name] for name in masks])
    expected = {name: part[masks[name]] for name, part in zip(masks, found, strict=True)}
    retained = float(torch.cat(token_losses(model, RETAIN, loss_on)).detach().mean())
    before = weights(model)
    options = {"saturation": 0.0, "importance": 0.0, "positions": positions, **SGD}
    done = tlm.training.unlearn(model, units, FORGET, RETAIN, loss_on=loss_on, **options)
    after = weights(model)
    assert done.history["forget_loss"][0] == pytest.approx(float(losses.detach().mean()), rel=1e-4)
    assert done.history["retain_loss"][0] == pytest.approx(retained, rel=1e-4)
    for name, gradient in expected.items():
        change = (after[name] - before[name])[masks[name]]
        if positions == "all":  # up the gradient: the loss is to rise
            torch.testing.assert_close(change, 0.5 * gradient, atol=2e-6, rtol=1e-3)
        else:
            assert bool(change.any())


def test_tokens_that_do_not_count_have_no_weight_in_satimp():
    model = tiny_model()
    units = some_units(model)
    masks = tlm.training.parameter_masks(model, units)
    named = dict(model.named_parameters())
    losses = torch.cat(token_losses(model, FORGET, "answer"))
    p = (-losses).exp().detach()
    objective = -(p**2 * (1 - p) * losses).mean()
    found = torch.autograd.grad(objective, [named[name] for name in masks])
    before = weights(model)
    tlm.training.unlearn(model, units, FORGET, RETAIN, loss_on="answer", saturation=2.0, **SGD)
    after = weights(model)
    for name, gradient in zip(masks, found, strict=True):
        change = (after[name] - before[name])[masks[name]]
        torch.testing.assert_close(change, -0.5 * gradient[masks[name]], atol=2e-6, rtol=1e-3)


def test_the_default_trains_on_prompts_alone_to_the_last_bit():
    trained = []
    for forget, given in ((FORGET, {}), (FORGET[["prompt"]], {}), (FORGET, {"loss_on": "prompt"})):
        model = tiny_model()
        options = {"n_steps": 3, "learning_rate": 0.01, **given, **QUIET}
        tlm.training.unlearn(model, some_units(model), forget, RETAIN, **options)
        trained.append(weights(model))
    for other in trained[1:]:
        assert all(other[name].equal(values) for name, values in trained[0].items())


@pytest.mark.parametrize("loss_on", CHOICES)
def test_forgetting_is_measured_over_the_tokens_that_are_trained(loss_on):
    model = tiny_model()
    units = some_units(model)
    options = {"n_steps": 2, "learning_rate": 0.02, "loss_on": loss_on, **QUIET}

    def means():
        with torch.no_grad():
            return [
                np.mean([float(each.mean()) for each in token_losses(model, frame, loss_on)])
                for frame in (FORGET, RETAIN)
            ]

    before = np.array(means())
    table = tlm.training.forgetting(model, units, FORGET, RETAIN, n_controls=1, **options)
    np.testing.assert_allclose(table["loss_before"][:2], before, rtol=1e-5)
    tlm.training.unlearn(model, units, FORGET, RETAIN, **options)
    np.testing.assert_allclose(table["effect"][:2], means() - before, atol=1e-5)
    assert ("loss_on" in table) == (loss_on != "prompt")


def test_prompts_without_answers_are_refused_before_a_step():
    model = tiny_model()
    before = weights(model)
    for function in (tlm.training.unlearn, tlm.training.forgetting):
        for retain in (["def if return"], RETAIN.assign(answer=["a", None])):
            message = "reads a column 'answer' beside 'prompt'|Every prompt should have an answer"
            with pytest.raises(tlm.ModulesError, match=message):
                function(model, some_units(model), FORGET, retain, loss_on="answer", **QUIET)
        with pytest.raises(tlm.ModulesError, match="it would cut the answers off"):
            function(model, some_units(model), FORGET, RETAIN, loss_on="all", max_tokens=3, **QUIET)
    assert all(before[name].equal(values) for name, values in weights(model).items())
