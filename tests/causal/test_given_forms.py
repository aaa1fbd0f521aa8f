"""Masks, positions and tokens as lists and NumPy arrays, and gradients in any mode of torch."""

import numpy as np
import pandas as pd
import pytest
import torch

import tl_modules as tlm
from tests.conftest import tiny_model

QUIET = {"progress": False}
MASK = [[1, 1, 1, 1, 0, 0], [1, 1, 1, 1, 1, 1], [1, 1, 0, 0, 0, 0], [1, 1, 1, 1, 1, 0]]
FORMS = [
    pytest.param(lambda rows: rows, id="lists"),
    pytest.param(np.array, id="numpy"),
    pytest.param(lambda rows: np.array(rows, dtype=np.int32), id="int32"),
]


@pytest.fixture(scope="module")
def pair():
    generator = torch.Generator().manual_seed(0)
    return [torch.randint(3, 40, (4, 6), generator=generator) for _ in range(2)]


def metric(logits):
    return logits[:, 1, 5] - logits[:, 1, 6]


def mean_metric(logits):
    return metric(logits).mean()


def patched(function):
    def call(c, clean, corrupted, mask):
        cache = c.run_with_cache(torch.as_tensor(clean).long())[1]
        return lambda modules: function(
            c, corrupted, cache, mean_metric, modules, attention_mask=mask, **QUIET
        )

    return call


def paired(function, *more, **options):
    def call(c, clean, corrupted, mask):
        return lambda modules: function(
            c, clean, corrupted, metric, modules, *more, attention_mask=mask, **options, **QUIET
        )

    return call


TAKERS = {
    "get_act_patch_module": patched(tlm.get_act_patch_module),
    "get_act_patch_module_by_pos": patched(tlm.get_act_patch_module_by_pos),
    "get_act_patch_module_by_layer": patched(tlm.get_act_patch_module_by_layer),
    "attribute_modules": paired(tlm.attribute_modules, exact=True),
    "module_graph": paired(tlm.module_graph, n_controls=1),
    "circuit_scores": paired(tlm.circuit_scores, [0], n_controls=1),
    "greedy_circuit": paired(tlm.greedy_circuit, n_controls=1),
}


def numbers_of(found):
    if isinstance(found, torch.Tensor):
        return found.numpy()
    frame = next(
        getattr(found, name)
        for name in ("modules", "edges", "table", "columns")
        if hasattr(found, name)
    )
    frame = found if isinstance(found, pd.DataFrame) else frame
    return frame.select_dtypes("number").to_numpy(float)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", TAKERS)
def test_tokens_and_masks_of_any_form_give_the_same(name, form, model, modules, pair):
    expected = numbers_of(TAKERS[name](model, *pair, torch.tensor(MASK))(modules))
    given = [form(tokens.tolist()) for tokens in pair]
    found = numbers_of(TAKERS[name](model, *given, form(MASK))(modules))
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("name", TAKERS)
def test_one_prompt_may_lack_its_batch_axis(name, model, modules, pair):
    if name == "greedy_circuit":
        pytest.skip("halves its prompts")
    one = [tokens[1:2] for tokens in pair]
    expected = numbers_of(TAKERS[name](model, *one, MASK[1:2])(modules))
    flat = [tokens[0] for tokens in one]
    if name.startswith("get_act"):
        flat[0] = one[0]  # its cache has a batch axis
    found = numbers_of(TAKERS[name](model, *flat, MASK[1])(modules))
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("name", TAKERS)
def test_malformed_tokens_and_masks_are_refused(name, model, modules, pair):
    call, (clean, corrupted) = TAKERS[name], pair
    with pytest.raises(tlm.ModulesError, match=r"Use model\.to_tokens"):
        call(model, clean, ["the cat"], None)(modules)
    with pytest.raises(tlm.ModulesError, match=r"Use model\.to_tokens"):
        call(model, clean, [*corrupted.tolist()[:-1], [3]], None)(modules)
    with pytest.raises(tlm.ModulesError, match="attention_mask should have the tokens' shape"):
        call(model, clean, corrupted, [row[:3] for row in MASK])(modules)
    with pytest.raises(tlm.ModulesError, match="attention_mask should be 1 or True"):
        call(model, clean, corrupted, corrupted)(modules)


@pytest.mark.parametrize("name", TAKERS)
def test_tokens_that_the_model_cannot_run_are_refused(name, model, modules, pair):
    call, (clean, corrupted) = TAKERS[name], pair
    d_vocab, n_ctx = model.cfg.d_vocab, model.cfg.n_ctx
    for bad in (d_vocab, -1):
        wrong = corrupted.clone()
        wrong[2, 3] = bad
        with pytest.raises(tlm.ModulesError, match=rf"0 \.\. {d_vocab - 1}.*holds {bad}\. Use"):
            call(model, clean, wrong, None)(modules)
    long = [tokens.repeat(1, n_ctx // 6 + 1) for tokens in pair]
    if not name.startswith("get_act"):  # whose clean cache is made first
        clean = long[0]
    with pytest.raises(tlm.ModulesError, match=f"fit the model's context of {n_ctx} tokens"):
        call(model, clean, long[1], None)(modules)


@pytest.mark.parametrize("name", TAKERS)
def test_refusals_of_objects_say_what_to_pass(name, model, modules, pair, monkeypatch):
    call = TAKERS[name]
    which = "clean_tokens" if not name.startswith("get_act") else "corrupted_tokens"
    for wrong, got in ((None, "None"), ("the cat", "'the cat'")):
        given = {"clean_tokens": pair[0], "corrupted_tokens": pair[1]} | {which: wrong}
        rest = (metric, modules, *([[0]] if name == "circuit_scores" else []))
        if which == "corrupted_tokens":
            cache = model.run_with_cache(pair[0])[1]
            given = {which: wrong, "clean_cache": cache}
        with pytest.raises(tlm.ModulesError) as caught:
            getattr(tlm, name)(model, *given.values(), *rest)
        wanted = "a tensor, a NumPy array or a list"
        message = f"{which} should be {wanted}; got {got}. Use model.to_tokens(prompts)."
        assert str(caught.value) == message
    monkeypatch.setitem(globals(), "metric", "loss")
    monkeypatch.setitem(globals(), "mean_metric", "loss")
    with pytest.raises(tlm.ModulesError, match=r"function.*got 'loss'\. Pass the function itself"):
        call(model, *pair, None)(modules)


@pytest.mark.parametrize("cache", [None, "text", 2.5])
def test_what_is_no_cache_is_refused_by_its_name(cache, model, modules, pair):
    for name in ("get_act_patch_module", "get_act_patch_module_by_layer"):
        with pytest.raises(tlm.ModulesError, match=f"clean_cache should .*got {cache!r}. Pass the"):
            getattr(tlm, name)(model, pair[1], cache, mean_metric, modules, **QUIET)


GRADIENTLESS = {
    "a float": lambda logits: float(mean_metric(logits)),
    "detached": lambda logits: mean_metric(logits).detach(),
    "NumPy": lambda logits: metric(logits).detach().numpy(),
    "a list": lambda logits: metric(logits).tolist(),
    "an int": lambda logits: 3,
    "whole numbers": lambda logits: logits.argmax(-1)[:, -1],
    "None": lambda logits: None,
}


@pytest.mark.parametrize("kind", GRADIENTLESS)
def test_attribution_says_that_a_metric_needs_gradients(kind, model, modules, pair):
    with pytest.raises(
        tlm.ModulesError, match=r"metric should return a tensor .*that gradients flow through; "
    ):
        tlm.attribute_modules(model, *pair, GRADIENTLESS[kind], modules, **QUIET)


def test_a_metric_that_returns_nothing_is_refused(model, modules, pair):
    for name in ("circuit_scores", "greedy_circuit", "module_graph"):
        more = ([0],) if name == "circuit_scores" else ()
        with pytest.raises(
            tlm.ModulesError,
            match=r"metric should return a tensor of one number per prompt, \(4,\)",
        ):
            getattr(tlm, name)(model, *pair, lambda logits: None, modules, *more, **QUIET)
    cache = model.run_with_cache(pair[0])[1]
    for name in ("get_act_patch_module", "get_act_patch_module_by_pos"):
        with pytest.raises(tlm.ModulesError, match=r"'metric' should return .*it returned None"):
            getattr(tlm, name)(model, pair[1], cache, lambda logits: None, modules, **QUIET)


@pytest.mark.parametrize("form", FORMS)
def test_hooks_take_masks_of_any_form(form, model, modules, pair):
    tokens, module = pair[0], modules[0]
    for name in ("attention_mask", "positions"):
        with torch.no_grad():
            expected = model.run_with_hooks(
                tokens, fwd_hooks=module.fwd_hooks("zero", **{name: torch.tensor(MASK).bool()})
            )
            hooks = module.fwd_hooks("zero", **{name: form(MASK)})
            assert torch.equal(model.run_with_hooks(tokens, fwd_hooks=hooks), expected)
            with module.ablated(model, "zero", **{name: form(MASK)}):
                assert torch.equal(model(tokens), expected)
            with module.attach(model, "zero", **{name: form(MASK)}):
                assert torch.equal(model(tokens), expected)
            assert not torch.equal(model(tokens), expected)


@pytest.mark.parametrize(
    ("positions", "message"),
    [
        ([True, False], "positions should be whole numbers, or a mask of shape batch x pos"),
        (True, "positions should be whole numbers, or a mask"),
        (np.array([0.5]), "positions should be whole numbers, or a mask"),
        ([[0, 2]], "positions should be 1 or True at the tokens"),
        ([[1, 0], [1]], "positions should hold numbers, equally many in each row"),
        (np.ones((1, 2, 3)), "positions should be whole numbers, or a mask"),
        (slice("a", None), "whole numbers as its bounds"),
        (slice(0, 4, 0), "a step other than 0"),
        ("first", "positions should be one of 'content', 'last'; got 'first'"),
        (["last"], "positions should hold numbers; got list"),
    ],
)
def test_what_are_no_positions_is_refused_before_any_run(modules, positions, message):
    with pytest.raises(tlm.ModulesError, match=message):
        modules[0].fwd_hooks("zero", positions=positions)


def test_rows_that_are_no_numbers_are_refused(modules):
    modules[0].fwd_hooks("zero", rows=[4, 5])
    for rows in (np.array([[1]]), np.array([0.5]), np.array(["a"])):
        with pytest.raises(tlm.ModulesError, match="rows should be one whole number per prompt"):
            modules[0].fwd_hooks("zero", rows=rows)


@pytest.mark.parametrize("form", FORMS)
def test_a_collector_takes_masks_of_any_form(form, model, pair):
    found = []
    for mask in (torch.tensor(MASK), form(MASK)):
        collector = tlm.Collector(model)
        _, cache = model.run_with_cache(pair[0], names_filter=collector.names_filter)
        collector.add(cache, attention_mask=mask)
        found.append(collector.matrix().values)
        with pytest.raises(tlm.ModulesError, match="attention_mask should hold numbers"):
            collector.add(cache, attention_mask=[[1, 1], [1]])
    np.testing.assert_array_equal(*found)


@pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad])
def test_attribution_gives_the_same_in_any_mode(model, modules, pair, mode):
    options = {"n_steps": 2, "exact": True, **QUIET}
    expected = tlm.attribute_modules(model, *pair, metric, modules, **options)
    with mode():
        inside = [tokens.clone() for tokens in pair]
        found = tlm.attribute_modules(model, *inside, metric, modules, **options)
        assert torch.is_inference_mode_enabled() == (mode is torch.inference_mode)
        assert not torch.is_grad_enabled()
    pd.testing.assert_frame_equal(found.modules, expected.modules)
    np.testing.assert_array_equal(found.unit_scores, expected.unit_scores)
    outside = tlm.attribute_modules(model, *inside, metric, modules, **options)
    np.testing.assert_array_equal(outside.unit_scores, expected.unit_scores)


@pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad])
def test_attributions_are_collected_alike_in_any_mode(model, prompts, mode):
    expected = tlm.collect(model, prompts, weight="attribution", **QUIET)
    with mode():
        found = tlm.collect(model, prompts, weight="attribution", **QUIET)
    np.testing.assert_array_equal(found.values, expected.values)


def test_parameters_without_gradients_do_not_matter(modules, pair):
    model = tiny_model()
    expected = tlm.attribute_modules(model, *pair, metric, modules, **QUIET)
    model.requires_grad_(False)
    found = tlm.attribute_modules(model, *pair, metric, modules, **QUIET)
    np.testing.assert_allclose(found.unit_scores, expected.unit_scores, rtol=1e-5, atol=1e-7)


def test_a_model_made_in_inference_mode_has_no_gradients(modules, pair):
    with torch.inference_mode():
        model = tiny_model()
        for part in model.modules():
            for name, parameter in part._parameters.items():
                if parameter is not None:
                    part._parameters[name] = torch.nn.Parameter(parameter.clone())
    assert all(parameter.is_inference() for parameter in model.parameters())
    message = r"made outside torch\.inference_mode\(\).*Load the model outside"
    with pytest.raises(tlm.ModulesError, match=message):
        tlm.attribute_modules(model, *pair, metric, modules, **QUIET)
    with pytest.raises(tlm.ModulesError, match=message):
        tlm.collect(model, ["the cat sat"], weight="attribution", **QUIET)


def test_a_metric_that_keeps_a_tensor_of_inference_mode_is_refused(model, modules, pair):
    with torch.inference_mode():
        weights = torch.ones(4) * 2

    def weighted(logits):
        return logits[:, 1, 5] * weights

    with pytest.raises(tlm.ModulesError, match=r"a tensor that the metric uses.*clone\(\)"):
        tlm.attribute_modules(model, *pair, weighted, modules, **QUIET)
