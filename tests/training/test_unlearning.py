"""Unlearning against steps worked by hand, and the way back."""

import math

import numpy as np
import pytest
import torch

import tl_modules as tlm
from tests.conftest import tiny_model
from tests.related.test_refusals import untyped
from tests.training.test_limited import moved, weights
from tests.training.test_masks import some_units
from tl_modules.interventions.strata import Strata
from tl_modules.tables.against_controls import control_p_value
from tl_modules.training import unlearning
from tl_modules.training.entries import Entries
from tl_modules.training.loss_changes import prompt_losses
from tl_modules.training.masks import NeuronRows

FORGET = ["the cat sat on", "a dog ran over the mat", "one bird flew"]
RETAIN = ["def if return", "print ( one ) :"]
QUIET = {"progress": False}


def test_a_conflicting_gradient_loses_its_part_against_retention():
    forget, retain = torch.tensor([1.0, 2.0]), torch.tensor([2.0, -4.0])
    # <g_u, g_r> = -6, |g_r|^2 = 20: g_u + 0.3 g_r.
    found = tlm.training.rectified(forget, retain)
    torch.testing.assert_close(found, torch.tensor([1.6, 0.8]))
    assert abs(float(found @ retain)) < 1e-6
    assert tlm.training.rectified(forget, -retain) is forget
    assert tlm.training.rectified(forget, torch.zeros(2)) is forget


def test_it_is_the_nearest_of_all_that_do_not_conflict():
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        forget, retain, other = torch.randn(3, 5, generator=generator, dtype=torch.float64)
        found = tlm.training.rectified(forget, retain)
        assert found @ retain >= -1e-12
        other = other if other @ retain >= 0 else -other
        for near in (other, found + 0.01 * other):
            assert (forget - found).norm() <= (forget - near).norm()


def test_weights_of_tokens_are_those_of_the_formula():
    known = torch.tensor([0.0, 0.5, 0.8, 1.0], dtype=torch.float64)
    found = tlm.training.satimp_weights(known, 5.0, 1.0)
    expected = torch.tensor([0, 0.5**6, 0.8**5 * 0.2, 0], dtype=torch.float64)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(tlm.training.satimp_weights(known, 0.0, 0.0), torch.ones_like(known))
    over = torch.tensor([1 + 1e-7])  # as rounding leaves it
    assert tlm.training.satimp_weights(over, 1.0, 0.5).tolist() == [0]
    assert not tlm.training.satimp_weights(known.requires_grad_(), 1.0, 1.0).requires_grad


@pytest.mark.parametrize("rectify", [True, False])
def test_a_step_of_plain_descent_is_the_one_worked_by_hand(rectify):
    model = tiny_model()
    units = some_units(model)
    masks = tlm.training.parameter_masks(model, units)
    named = dict(model.named_parameters())
    gradients = []
    for prompt, sign in ((FORGET[0], -1), (FORGET[0] + " cat", 1)):
        tokens = model.to_tokens(prompt)
        logprobs = model(tokens)[0, :-1].log_softmax(-1)
        nll = -logprobs.gather(1, tokens[0, 1:, None])[:, 0]
        p = (-nll).exp().detach()
        loss = nll.mean() if sign > 0 else -(p**2 * (1 - p) * nll).mean()
        found = torch.autograd.grad(loss, [named[name] for name in masks])
        pairs = zip(found, masks.values(), strict=True)
        gradients.append(torch.cat([gradient[mask] for gradient, mask in pairs]))
    forget, retain = gradients
    if rectify and forget @ retain < 0:
        forget = forget - (forget @ retain) / (retain @ retain) * retain
    assert gradients[0] @ retain < 0, "the case that is meant"
    before = weights(model)
    options = {"n_steps": 1, "learning_rate": 0.5, "saturation": 2.0, "rectify": rectify, **QUIET}
    done = tlm.training.unlearn(
        model, units, FORGET[:1], [FORGET[0] + " cat"], optimizer=torch.optim.SGD, **options
    )
    after = weights(model)
    change = torch.cat([(after[name] - before[name])[mask] for name, mask in masks.items()])
    torch.testing.assert_close(change, -0.5 * forget, atol=1e-6, rtol=1e-3)
    assert done.history["rectified"].tolist() == [rectify]
    cosine = float(gradients[0] @ retain / gradients[0].norm() / retain.norm())
    assert done.history["cosine"][0] == pytest.approx(cosine, abs=1e-4)


def test_the_retain_gradient_is_smoothed(monkeypatch):
    model = tiny_model()
    given = []
    monkeypatch.setattr(unlearning, "rectified", lambda g, r: given.append(r.clone()) or g)
    found = []
    real = unlearning._gradient

    def gradient(*given):
        loss, each = real(*given)
        weights = given[-1]
        if weights is None:
            found.append(each)
        return loss, each

    monkeypatch.setattr(unlearning, "_gradient", gradient)
    tlm.training.unlearn(
        model, some_units(model), FORGET, RETAIN, n_steps=3, smoothing=0.75, **QUIET
    )
    second = 0.75 * found[0] + 0.25 * found[1]
    third = 0.75 * second + 0.25 * found[2]
    for one, other in zip(given, (found[0], second, third), strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("whole", [True, False])
def test_it_forgets_in_the_module_alone_and_goes_back_bit_by_bit(whole):
    model = tiny_model()
    units = None if whole else some_units(model)
    before = weights(model)
    done = tlm.training.unlearn(
        model, units, FORGET, RETAIN, n_steps=8, learning_rate=0.01, **QUIET
    )
    history = done.history
    assert history["forget_loss"].iloc[-1] > history["forget_loss"].iloc[0] + 0.1
    changed = moved(before, weights(model))
    masks = {} if whole else tlm.training.parameter_masks(model, units)
    for name, where in changed.items():
        mask = masks.get(name, torch.full_like(where, whole))
        assert not where[~mask].any()
    assert any(where.any() for where in changed.values())
    assert all(each.grad is None for each in model.parameters())
    assert "8 steps on" in repr(done)
    assert "forget_loss" in done._repr_html_()
    done.restore(model)
    assert not any(where.any() for where in moved(before, weights(model)).values())
    with pytest.raises(tlm.ModulesError, match="should"):
        done.restore(tiny_model(n_layers=2))


def test_an_exception_on_the_way_leaves_the_old_weights(monkeypatch):
    model = tiny_model()
    before = weights(model)
    real, calls = unlearning._gradient, []

    def gradient(*given):
        calls.append(given)
        if len(calls) == 6:
            raise KeyboardInterrupt
        return real(*given)

    monkeypatch.setattr(unlearning, "_gradient", gradient)
    with pytest.raises(KeyboardInterrupt):
        tlm.training.unlearn(model, some_units(model), FORGET, RETAIN, learning_rate=0.1, **QUIET)
    assert not any(where.any() for where in moved(before, weights(model)).values())


def test_a_loss_that_is_no_number_is_refused():
    model = tiny_model()
    with pytest.raises(tlm.ModulesError, match="Lower the learning_rate"):
        tlm.training.unlearn(model, None, FORGET, RETAIN, learning_rate=1e30, n_steps=9, **QUIET)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"n_steps": 0}, "n_steps should be at least 1"),
        ({"batch_size": 0}, "batch_size should be at least 1"),
        ({"smoothing": 1.0}, "smoothing should be at least 0"),
        ({"saturation": -1.0}, "saturation should be a finite number >= 0"),
        ({"importance": math.inf}, "importance should be a finite number >= 0"),
        ({"learning_rate": -1.0}, "learning_rate should be a positive number"),
        ({"seed": -1}, "seed should lie"),
        ({"forget": []}, "at least one prompt"),
    ],
)
def test_what_cannot_be_is_refused(change, said, model):
    given = {"forget": FORGET, "retain": RETAIN, **QUIET} | change
    with pytest.raises(tlm.ModulesError, match=said):
        tlm.training.unlearn(model, some_units(model), **given)
    with pytest.raises(tlm.ModulesError, match="needs at least one weight"):
        tlm.training.unlearn(model, some_units(model, 0.0), FORGET, RETAIN, **QUIET)


def test_forgetting_stands_beside_the_same_in_controls():
    model = tiny_model()
    units = some_units(model, 0.3)
    before = weights(model)
    options = {"n_steps": 4, "learning_rate": 0.01, "seed": 2}
    sides = (FORGET[:2], RETAIN)
    table = tlm.training.forgetting(
        model, units, FORGET, RETAIN, held_out=sides, n_controls=3, **options, **QUIET
    )
    assert not any(where.any() for where in moved(before, weights(model)).values())
    assert table["set"].tolist() == ["forget", "retain", "margin"]
    assert table["n"].tolist() == [2, 2, 4]

    def losses():
        found = []
        for prompt in (*sides[0], *sides[1]):
            tokens = model.to_tokens(prompt)
            logprobs = model(tokens)[0, :-1].log_softmax(-1)
            found.append(-logprobs.gather(1, tokens[0, 1:, None]).mean().item())
        return np.array([np.mean(found[:2]), np.mean(found[2:])])

    untrained = losses()
    done = tlm.training.unlearn(model, units, FORGET, RETAIN, **options, **QUIET)
    rises = losses() - untrained
    done.restore(model)
    expected = [*rises, rises[0] - rises[1]]
    np.testing.assert_allclose(table["effect"], expected, atol=1e-5)
    np.testing.assert_allclose(table["loss_before"][:2], untrained, atol=1e-5)
    assert table["p_value"].isin([0.25, 0.5, 0.75, 1]).all()
    assert (table["ci_low"] <= table["effect"]).all()
    alone = tlm.training.forgetting(model, None, FORGET, RETAIN, n_controls=3, **options, **QUIET)
    assert alone["control_mean"].isna().all()
    assert alone["n_units"].isna().all()


def test_controls_of_forgetting_are_trained_in_units_of_their_own():
    model = tiny_model()
    units = some_units(model, 0.3)
    options = {"n_steps": 2, "learning_rate": 0.01, "seed": 2, **QUIET}
    table = tlm.training.forgetting(model, units, FORGET, RETAIN, n_controls=3, **options)
    generator = np.random.default_rng(2)
    strata = Strata.by_layer(units)
    controls = [strata.draw(units, generator) for _ in range(3)]
    before = prompt_losses(model, FORGET + RETAIN)
    rises = []
    for each in (units, *controls):
        done = tlm.training.unlearn(model, each, FORGET, RETAIN, **options)
        rise = prompt_losses(model, FORGET + RETAIN) - before
        done.restore(model)
        forgot, lost = rise[:3].mean(), rise[3:].mean()
        rises.append([forgot, lost, forgot - lost])
    own, others = rises[0], np.array(rises[1:])
    assert others.std(axis=0).min() > 1e-4
    np.testing.assert_allclose(table["effect"], own, atol=1e-9)
    np.testing.assert_allclose(table["control_mean"], others.mean(axis=0), atol=1e-9)
    np.testing.assert_allclose(table["control_std"], others.std(axis=0, ddof=1), atol=1e-9)
    p_values = [
        control_p_value(sign * one, sign * each)
        for sign, one, each in zip((1, -1, 1), own, others.T, strict=True)
    ]
    assert table["p_value"].tolist() == p_values


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_model_in_sixteen_bits_is_trained_as_in_thirty_two(dtype):
    exact, model = tiny_model(), tiny_model()
    model.to(dtype)
    units = some_units(model, 0.5)
    options = {"n_steps": 3, "learning_rate": 0.01, **QUIET}
    before = weights(model)
    done = tlm.training.unlearn(model, units, FORGET, RETAIN, **options)
    wanted = tlm.training.unlearn(exact, units, FORGET, RETAIN, **options)
    change = done.history["forget_loss"].diff().iloc[1:].to_numpy()
    expected = wanted.history["forget_loss"].diff().iloc[1:].to_numpy()
    np.testing.assert_allclose(change, expected, rtol=0.3, atol=0.05)
    done.restore(model)
    assert not any(where.any() for where in moved(before, weights(model)).values())


def test_weights_that_are_no_numbers_after_the_last_step_are_refused():
    model = tiny_model()
    before = weights(model)
    wild = lambda parameters, lr: torch.optim.SGD(parameters, lr=lr)  # noqa: E731
    options = {"learning_rate": 3e38, "optimizer": wild, "rectify": False}
    with pytest.raises(tlm.ModulesError, match="should stay finite"):
        tlm.training.unlearn(model, None, FORGET, RETAIN, n_steps=2, **options, **QUIET)
    assert not any(where.any() for where in moved(before, weights(model)).values())


def test_inference_mode_is_refused(model):
    with torch.inference_mode(), pytest.raises(tlm.ModulesError, match="inference_mode"):
        tlm.training.unlearn(model, some_units(model), FORGET, RETAIN, **QUIET)


def test_one_prompt_a_side_has_no_interval_and_controls_are_as_large_as_the_module():
    model = tiny_model()
    units = some_units(model, 0.8)
    options = {"n_controls": 2, "n_steps": 1, **QUIET}
    table = tlm.training.forgetting(model, units, FORGET[:1], RETAIN, **options).set_index("set")
    assert table.loc[["forget", "margin"], ["ci_low", "ci_high"]].isna().all(axis=None)
    assert table.loc["retain", "ci_low"] <= table.loc["retain", "effect"]
    assert (table["control_units"] == table["n_units"]).all()
    every = units.every()
    alone = tlm.training.forgetting(model, every, FORGET, RETAIN, **options)
    np.testing.assert_allclose(alone["control_mean"], alone["effect"], atol=1e-6)
    assert (alone["p_value"] == 1).all()


@pytest.mark.parametrize(
    ("dtype", "size"),
    [
        (torch.float32, 1e-25),  # whose square is 0
        (torch.float32, 1e25),  # whose square is infinite
        (torch.float16, 60000.0),
        (torch.float16, 6e-8),
        (torch.float64, 1e-200),
    ],
)
def test_a_gradient_is_turned_however_small_or_large_the_other_is(dtype, size):
    forget, retain = torch.tensor([[-1, 2], [size, 0]], dtype=dtype)
    found = tlm.training.rectified(forget, retain)
    assert found.dtype == dtype
    assert found.tolist() == [0, 2]


def test_many_entries_in_sixteen_bits_are_turned_too():
    forget, retain = torch.full((2, 1000), 300.0, dtype=torch.float16)
    found = tlm.training.rectified(forget, -retain)  # the product is far beyond float16
    assert found.abs().max() < 1
    assert tlm.training.rectified(forget, torch.zeros_like(forget)) is forget


def test_a_model_in_training_mode_is_refused_before_it_is_run(monkeypatch):
    model = tiny_model().train()
    monkeypatch.setattr(unlearning, "LossTexts", None)
    with pytest.raises(tlm.ModulesError, match=r"should be in eval mode;.* Call model.eval\(\)"):
        tlm.training.unlearn(model, None, FORGET, RETAIN, **QUIET)


@pytest.mark.parametrize("frozen_before", [True, False])
def test_what_was_trained_goes_back_whatever_requires_a_gradient_by_then(frozen_before):
    model = tiny_model()
    if frozen_before:
        next(iter(model.parameters())).requires_grad_(False)
    before = weights(model)
    done = tlm.training.unlearn(model, None, FORGET, RETAIN, n_steps=2, learning_rate=0.1, **QUIET)
    assert any(where.any() for where in moved(before, weights(model)).values())
    assert len(done.parameters) == len(before) - frozen_before
    for required in (False, True):
        model.requires_grad_(required)
        done.restore(model)
        assert not any(where.any() for where in moved(before, weights(model)).values())


@pytest.mark.parametrize(
    ("optimizer", "name"),
    [
        (torch.optim.LBFGS, "LBFGS"),
        (getattr(torch.optim, "Muon", None), "Muon|NoneType"),
        (torch.optim.SparseAdam, "SparseAdam"),
        ("adam", "str"),
    ],
)
def test_an_optimizer_that_cannot_be_used_is_refused_before_the_model_is_run(
    optimizer, name, monkeypatch
):
    model = tiny_model()
    before = weights(model)
    monkeypatch.setattr(unlearning, "_gradient", None)
    said = f"one vector and whose step.. needs no closure, such as torch.optim.Adam; got ({name}), "
    with untyped(), pytest.raises(tlm.ModulesError, match=said):
        tlm.training.unlearn(model, None, FORGET, RETAIN, optimizer=optimizer, **QUIET)
    assert not any(where.any() for where in moved(before, weights(model)).values())


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (
            lambda: tlm.training.satimp_weights(0.5),
            "probabilities should be a tensor; got 0.5. Pass",
        ),
        (lambda: tlm.training.rectified([1.0], [2.0]), "forget should be a tensor; got list. Pass"),
        (
            lambda: tlm.training.rectified(torch.ones(1), None),
            "retain should be a tensor; got None",
        ),
    ],
)
def test_what_is_no_tensor_is_refused(call, said):
    with untyped(), pytest.raises(tlm.ModulesError, match=said):
        call()


def test_parts_on_several_devices_are_one_vector_on_the_first():
    # No second device is here: the one without memory stands for it.
    away = torch.nn.Parameter(torch.empty(2, 3, device="meta"))
    here = torch.nn.Parameter(torch.arange(4.0))
    entries = Entries(("away", "here"), (away, here), (None, None))
    vector = entries.gather(entries.parameters)
    assert (vector.device.type, len(vector)) == ("meta", 10)
    assert entries.gradient(here.sum()).device.type == "meta"
    second = NeuronRows("away", away, (2, 3), (3, 1), 0), torch.tensor([1])
    Entries(entries.names, entries.parameters, (second, None)).write(torch.arange(7.0))
    assert here.tolist() == [3, 4, 5, 6]


# The first token.


def test_with_content_no_gradient_goes_through_the_first_token():
    """Of prompts whose only prediction is the first token's, nothing is left to train on."""
    model = tiny_model()
    units = some_units(model)
    before = weights(model)
    prompts = (["cat", "dog"], ["print", "return"])
    assert {len(model.to_tokens(word)[0]) for words in prompts for word in words} == {2}
    options = {"n_steps": 2, "learning_rate": 0.1, "optimizer": torch.optim.SGD, **QUIET}
    done = tlm.training.unlearn(model, units, *prompts, positions="content", **options)
    assert not any(bits.any() for bits in moved(before, weights(model)).values())
    done.restore(model)
    tlm.training.unlearn(model, units, *prompts, positions="all", **options)
    assert any(bits.any() for bits in moved(before, weights(model)).values())


def test_with_content_the_step_is_that_of_a_fixed_first_token():
    model = tiny_model()
    units = some_units(model)
    masks = tlm.training.parameter_masks(model, units)
    named = dict(model.named_parameters())
    tokens = model.to_tokens(FORGET[0])
    names = [f"blocks.{layer}.hook_mlp_out" for layer in range(model.cfg.n_layers)]
    _, cache = model.run_with_cache(tokens, names_filter=names)

    def fixed(name):
        first = cache[name][:, :1].detach()
        return lambda written, hook: torch.cat([first, written[:, 1:]], dim=1)

    logits = model.run_with_hooks(tokens, fwd_hooks=[(name, fixed(name)) for name in names])
    loss = torch.nn.functional.cross_entropy(logits[0, :-1], tokens[0, 1:])
    found = torch.autograd.grad(-loss, [named[name] for name in masks])
    pairs = zip(found, masks.items(), strict=True)
    expected = [named[name][mask] - 0.5 * gradient[mask] for gradient, (name, mask) in pairs]
    tlm.training.unlearn(
        model,
        units,
        FORGET[:1],
        RETAIN,
        n_steps=1,
        learning_rate=0.5,
        rectify=False,
        saturation=0.0,
        importance=0.0,
        positions="content",
        optimizer=torch.optim.SGD,
        **QUIET,
    )
    for (name, mask), values in zip(masks.items(), expected, strict=True):
        torch.testing.assert_close(named[name][mask], values, atol=1e-5, rtol=1e-4)


def test_forgetting_takes_the_same_paths():
    words = (["cat", "dog"], ["print", "return"])
    options = {"n_controls": 1, "n_steps": 1, "learning_rate": 0.1, **QUIET}
    model = tiny_model()
    found = tlm.training.forgetting(
        model, some_units(model), *words, positions="content", **options
    )
    assert (found["effect"] == 0).all()
    found = tlm.training.forgetting(model, some_units(model), *words, **options)
    assert (found["effect"] != 0).any()


def test_the_whole_model_has_no_content_paths(model):
    with pytest.raises(tlm.ModulesError, match="module=None trains attention too"):
        tlm.training.unlearn(model, None, FORGET, RETAIN, positions="content", **QUIET)
