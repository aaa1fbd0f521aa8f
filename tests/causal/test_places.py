"""Places in a prompt, while a model continues it from a key-value cache: as in the whole prompt."""

from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

import tl_modules as tlm
from tests.architectures import hooked_model, hugging_face_model
from tests.conftest import LEGACY
from tl_modules.interventions.hooks import Edit, hooked
from tl_modules.interventions.positions import Where
from tl_modules.models.prompt_starts import StartFinder
from tl_modules.related.linear_edit import LinearEdit

HOOK = "blocks.{}.mlp.hook_post"
LAYERS, WIDTH = range(2), 24
QUIET = {"progress": False}
MASK = [[False, True, False, True, True, False, False]] * 2


@pytest.fixture(scope="module", params=["Llama", "GPT-2"])
def model(request):
    """One with a key-value cache; places reach GPT-2 by its position embedding too."""
    return hooked_model(hugging_face_model(request.param), request.param)


@pytest.fixture(scope="module")
def prompts():
    texts = [
        "the cat sat on the mat",
        "one plus two equals three",
        "why is the house green and big",
    ]
    return pd.DataFrame({"prompt": texts})


@pytest.fixture(scope="module")
def tokens():
    return torch.randint(3, 40, (2, 7), generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def reference(model, prompts):
    return tlm.collect_reference(model, prompts, n_tokens=12, n_positions=5, **QUIET)


@pytest.fixture(scope="module")
def module(reference):
    """Half of the neurons of either layer."""
    chosen = np.arange(len(reference.units)) % 2 == 0
    samples = pd.DataFrame({"prompt": ["the cat"]})
    return tlm.Module(0, reference.units.select(chosen), samples, means=reference)


def new_cache(model, n_rows):
    if LEGACY:
        from transformer_lens.cache.key_value_cache import TransformerLensKeyValueCache

        return TransformerLensKeyValueCache.init_cache(model.cfg, model.cfg.device, n_rows)
    from transformers import DynamicCache

    return DynamicCache(config=model.original_model.config)


def continued(model, cache, tokens, run=None):
    """A run of some tokens behind those in the cache."""
    run = model if run is None else run
    if LEGACY:
        return run(tokens, past_kv_cache=cache, attention_mask=torch.ones_like(tokens))
    return run(tokens, past_key_values=cache)


def in_pieces(model, tokens, cuts):
    """The logits of a prompt that is run piece by piece."""
    cache = new_cache(model, len(tokens))
    bounds = [0, *cuts, tokens.shape[1]]
    with torch.no_grad():
        return torch.cat(
            [continued(model, cache, tokens[:, first:last]) for first, last in pairwise(bounds)],
            dim=1,
        )


def by_hand(model, tokens, change):
    """The logits of whole prompts, the module's neurons changed: ``change(layer, old, place)``."""

    def at(layer):
        def hook_fn(activation, hook):
            result = activation.clone()
            for place in range(activation.shape[1]):
                old = activation[:, place, ::2]
                result[:, place, ::2] = change(layer, old, place)
            return result

        return hook_fn

    with torch.no_grad():
        hooks = [(HOOK.format(layer), at(layer)) for layer in LAYERS]
        return model.run_with_hooks(tokens, fwd_hooks=hooks)


def zeroed(places):
    return lambda layer, old, place: old * 0 if place in places else old


def written_by_hand(model, tokens, n_new, change):
    """What greedy decoding writes when each step runs the whole prompt anew."""
    for _ in range(n_new):
        new = by_hand(model, tokens, change)[:, -1].argmax(-1)
        tokens = torch.cat([tokens, new[:, None]], dim=1)
    return tokens


def written(model, tokens, n_new, **options):
    return model.generate(
        tokens,
        max_new_tokens=n_new,
        do_sample=False,
        stop_at_eos=False,
        verbose=False,
        return_type="tokens",
        **options,
    )


EACH = [
    (0, {0}),
    (np.int64(4), {4}),
    ([0, 3], {0, 3}),
    (np.array([5, 1]), {1, 5}),
    (torch.tensor([2]), {2}),
    (slice(2, 5), {2, 3, 4}),
    (slice(1, None, 2), {1, 3, 5}),
    (MASK, {1, 3, 4}),
    (np.array(MASK), {1, 3, 4}),
    (torch.tensor(MASK).int(), {1, 3, 4}),
]


@pytest.mark.parametrize(("positions", "places"), EACH)
@pytest.mark.parametrize("cuts", [[4], [1, 2], [1, 2, 3, 4, 5, 6]])
def test_a_prompt_in_pieces_is_changed_where_the_whole_one_is(
    model, module, tokens, positions, places, cuts
):
    expected = by_hand(model, tokens, zeroed(places))
    with module.ablated(model, "zero", positions=positions):
        found = in_pieces(model, tokens, cuts)
    torch.testing.assert_close(found, expected, atol=2e-4, rtol=1e-4)
    assert not torch.allclose(expected, by_hand(model, tokens, zeroed({6})), atol=1e-2)


def test_position_means_of_a_prompt_in_pieces_are_those_of_its_places(
    model, module, reference, tokens
):
    means = torch.from_numpy(np.stack([*reference.position_means, reference.unit_means])).float()

    def change(layer, old, place):
        row = means[min(place, len(means) - 1), layer * WIDTH : (layer + 1) * WIDTH]
        return row[::2].expand_as(old)

    expected = by_hand(model, tokens, change)
    with module.ablated(model, "position_mean", reference):
        found = in_pieces(model, tokens, [2, 3])
    torch.testing.assert_close(found, expected, atol=2e-4, rtol=1e-4)


def test_a_prompt_in_pieces_is_patched_from_the_same_places(model, module, tokens):
    _, cache = model.run_with_cache(tokens.flip(0))

    def change(layer, old, place):
        return cache[HOOK.format(layer)][:, place, ::2]

    expected = by_hand(model, tokens, change)
    with module.ablated(model, "patch", source=cache):
        found = in_pieces(model, tokens, [3])
    torch.testing.assert_close(found, expected, atol=2e-4, rtol=1e-4)


def test_a_prompt_in_pieces_gets_the_tokens_that_the_whole_one_gets(
    model, module, reference, tokens
):
    with torch.no_grad(), module.ablated(model, "resample", reference, seed=3):
        whole = model(tokens)
        again = model(tokens)
        found = in_pieces(model, tokens, [1, 5])
    torch.testing.assert_close(found, whole, atol=2e-4, rtol=1e-4)
    assert torch.equal(again, whole)
    with torch.no_grad(), module.ablated(model, "resample", reference, seed=4):
        assert not torch.allclose(model(tokens), whole, atol=1e-2)


def test_a_mask_of_the_whole_prompt_holds_for_its_pieces(model, module, reference, tokens):
    attention = [[1, 1, 1, 1, 1, 0, 1], [1] * 7]
    means = torch.from_numpy(np.stack([*reference.position_means, reference.unit_means])).float()
    numbers = [[0, 1, 2, 3, 4, None, 5], [0, 1, 2, 3, 4, 5, 6]]

    def change(layer, old, place):
        result = old.clone()
        for row, own in enumerate(numbers):
            if own[place] is not None:
                at = means[min(own[place], len(means) - 1)]
                result[row] = at[layer * WIDTH : (layer + 1) * WIDTH][::2]
        return result

    expected = by_hand(model, tokens, change)
    with module.ablated(model, "position_mean", reference, attention_mask=attention):
        found = in_pieces(model, tokens, [6])
    torch.testing.assert_close(found, expected, atol=2e-4, rtol=1e-4)


@pytest.mark.parametrize("n_tokens", [1, 4])
@pytest.mark.parametrize(("positions", "places"), EACH[:3] + EACH[5:7])
def test_generate_with_a_cache_writes_what_whole_runs_give(
    model, module, tokens, n_tokens, positions, places
):
    # Also places that only what is generated reaches.
    start = tokens[:, :n_tokens]
    everywhere = {1, 3, 5, 7, 9} if positions == slice(1, None, 2) else places
    expected = written_by_hand(model, start, 5, zeroed(everywhere))
    with module.ablated(model, "zero", positions=positions):
        assert torch.equal(written(model, start, 5), expected)


@pytest.mark.parametrize("n_tokens", [1, 4])
def test_generate_without_a_cache_writes_the_same(model, module, reference, tokens, n_tokens):
    start = tokens[:, :n_tokens]
    for options in (
        {"method": "zero", "positions": [0]},
        {"method": "zero", "positions": slice(0, 2)},
        {"method": "position_mean", "reference": reference},
        {"method": "resample", "reference": reference},
    ):
        with module.ablated(model, **options):
            expected = written(model, start, 5, use_past_kv_cache=False)
            assert torch.equal(written(model, start, 5), expected)
            # Again, after a prompt of another length.
            other = written(model, tokens[:, :6], 5)
            assert torch.equal(written(model, start, 5), expected)
            assert torch.equal(written(model, tokens[:, :6], 5), other)


def test_a_place_of_one_prompt_is_not_that_of_the_next(model, module, tokens):
    one = tokens[:, :1]
    expected = by_hand(model, one, zeroed({0}))
    with torch.no_grad(), module.ablated(model, "zero", positions=[0]):
        model(tokens)
        torch.testing.assert_close(model(one), expected, atol=2e-4, rtol=1e-4)
        in_pieces(model, tokens, [4])
        torch.testing.assert_close(model(one), expected, atol=2e-4, rtol=1e-4)
    hooks = module.fwd_hooks("zero", positions=[0])
    with torch.no_grad():
        model.run_with_hooks(tokens, fwd_hooks=hooks)
        found = model.run_with_hooks(one, fwd_hooks=hooks)
    torch.testing.assert_close(found, expected, atol=2e-4, rtol=1e-4)


def test_last_is_the_last_token_of_each_forward_pass(model, module, tokens):
    expected = by_hand(model, tokens, zeroed({3, 6}))
    for attention in (None, np.ones((2, 7))):
        with module.ablated(model, "zero", positions="last", attention_mask=attention):
            found = in_pieces(model, tokens, [4])
        torch.testing.assert_close(found, expected, atol=2e-4, rtol=1e-4)


@pytest.mark.parametrize("positions", [-1, [0, -2], slice(-3, None), slice(0, -1), slice(5, 0, -2)])
def test_places_counted_from_the_end_are_refused_where_it_is_not_known(
    model, module, tokens, positions
):
    with (
        module.ablated(model, "zero", positions=positions),
        pytest.raises(tlm.ModulesError, match="from the prompt's first token"),
    ):
        in_pieces(model, tokens, [4])
    everywhere = list(range(7))
    chosen = everywhere[positions] if isinstance(positions, slice) else np.ravel(positions)
    expected = by_hand(model, tokens, zeroed({int(place) % 7 for place in chosen}))
    with torch.no_grad(), module.ablated(model, "zero", positions=positions):
        torch.testing.assert_close(model(tokens), expected, atol=2e-4, rtol=1e-4)


def test_a_mask_that_ends_before_the_run_is_refused(model, module, tokens):
    for name in ("positions", "attention_mask"):
        for mask in (np.ones((2, 3)), np.ones((2, 4)), np.ones((3, 7)), np.ones((1, 7))):
            with (
                module.ablated(model, "zero", **{name: mask}),
                pytest.raises(tlm.ModulesError, match=f"{name} should have the shape of"),
            ):
                in_pieces(model, tokens, [4])


def test_places_beyond_a_run_are_refused_where_no_cache_lets_them_come(model, module, tokens):
    expected = written_by_hand(model, tokens, 3, zeroed({7}))
    with module.ablated(model, "zero", positions=7):
        with pytest.raises(tlm.ModulesError, match=r"positions should lie in -7\.\.6"):
            model(tokens)
        assert torch.equal(written(model, tokens, 3), expected)


def test_hooks_alone_refuse_a_run_with_a_cache_where_places_matter(
    model, module, reference, tokens
):
    _, source = model.run_with_cache(tokens)
    for options in (
        {"method": "zero", "positions": [0]},
        {"method": "zero", "positions": slice(0, 2)},
        {"method": "zero", "positions": MASK},
        {"method": "zero", "attention_mask": MASK},
        {"method": "position_mean", "reference": reference},
        {"method": "resample", "reference": reference},
        {"method": "patch", "source": source},
    ):
        hooks = module.fwd_hooks(**options)
        cache = new_cache(model, 2)
        continued(model, cache, tokens[:, :3])

        def run(*args, hooks=hooks, **kwargs):
            return model.run_with_hooks(*args, fwd_hooks=hooks, **kwargs)

        with pytest.raises(tlm.ModulesError, match=r"Use module\.ablated\(model, \.\.\.\)"):
            continued(model, cache, tokens[:, 3:], run)


def test_hooks_alone_refuse_to_go_on_after_a_prompt_of_one_token(model, module, tokens):
    with (
        model.hooks(fwd_hooks=module.fwd_hooks("zero", positions=[0])),
        pytest.raises(tlm.ModulesError, match=r"Use module\.ablated\(model, \.\.\.\)"),
    ):
        written(model, tokens[:, :1], 2)


@pytest.mark.parametrize("positions", [None, "last"])
def test_hooks_alone_follow_a_run_with_a_cache_where_places_do_not_matter(
    model, module, tokens, positions
):
    with module.ablated(model, "zero", positions=positions):
        expected = written(model, tokens, 4)
    with model.hooks(fwd_hooks=module.fwd_hooks("zero", positions=positions)):
        assert torch.equal(written(model, tokens, 4), expected)


def test_attached_hooks_know_places_and_leave_nothing_behind(model, module, tokens):
    expected = written_by_hand(model, tokens, 4, zeroed({0, 1}))
    plain = written(model, tokens, 4)
    before = n_hooks(model)
    handle = module.attach(model, "zero", positions=slice(0, 2))
    assert torch.equal(written(model, tokens, 4), expected)
    assert n_hooks(model) > before
    handle.remove()
    assert n_hooks(model) == before
    assert torch.equal(written(model, tokens, 4), plain)
    with pytest.raises(KeyError), module.ablated(model, "zero", positions=0):
        raise KeyError
    assert n_hooks(model) == before


def n_hooks(model):
    return sum(len(part._forward_hooks) + len(part._forward_pre_hooks) for part in model.modules())


def test_patching_a_prompts_place_goes_on_while_generate_writes(model, module, tokens):
    _, cache = model.run_with_cache(tokens.flip(0))

    def change(layer, old, place):
        return cache[HOOK.format(layer)][:, 2, ::2] if place == 2 else old

    expected = written_by_hand(model, tokens, 4, change)
    with module.ablated(model, "patch", source=cache, positions=2):
        assert torch.equal(written(model, tokens, 4), expected)
    with (
        module.ablated(model, "patch", source=cache),
        pytest.raises(tlm.ModulesError, match="source should be a run of the same batch"),
    ):
        written(model, tokens, 4)


@pytest.mark.skipif(LEGACY, reason="only a bridge has transformers' own generate()")
def test_beams_are_changed_where_whole_runs_are(tokens):
    plain = hugging_face_model("Llama")
    model = hooked_model(plain, "Llama")
    units = tlm.Collector(model).units
    samples = pd.DataFrame({"prompt": ["the cat"]})
    module = tlm.Module(0, units.select(np.arange(len(units)) % 2 == 0), samples)
    options = {"max_new_tokens": 6, "num_beams": 3, "do_sample": False, "pad_token_id": 0}

    def zero(part, inputs):
        changed = inputs[0].clone()
        changed[:, [0, 4], ::2] = 0
        return (changed,)

    handles = [layer.mlp.down_proj.register_forward_pre_hook(zero) for layer in plain.model.layers]
    expected = plain.generate(tokens, use_cache=False, **options)
    for handle in handles:
        handle.remove()
    assert not torch.equal(plain.generate(tokens, use_cache=False, **options), expected)
    with module.ablated(model, "zero", positions=[0, 4]):
        found = model.original_model.generate(tokens, use_cache=True, **options)
    assert torch.equal(found, expected)


@pytest.mark.parametrize("cuts", [[4], [1, 2]])
def test_the_first_token_of_a_prompt_is_spared_and_no_other(model, tokens, cuts):
    index = np.arange(0, WIDTH, 2)
    to_zero = (np.zeros(len(index)), np.eye(len(index)), -np.eye(len(index)))
    edit = LinearEdit(HOOK.format(0), WIDTH, index, *to_zero, spares_first=True)
    hooks = [edit.hook(Where())]

    def change(layer, old, place):
        return old * 0 if layer == 0 and place > 0 else old

    expected = by_hand(model, tokens, change)
    with hooked(model, hooks):
        found = in_pieces(model, tokens, cuts)
        again = in_pieces(model, tokens[:, :1], [])
    torch.testing.assert_close(found, expected, atol=2e-4, rtol=1e-4)
    torch.testing.assert_close(again, expected[:, :1], atol=2e-4, rtol=1e-4)


def start_of(**arguments):
    """Where a pass with these arguments begins, as a model's own hook reads it."""

    class Inner(torch.nn.Module):
        def forward(self, ids, past_key_values=None, cache_position=None, **other):
            return finder.start()

    finder, inner = StartFinder(), Inner()
    finder.follow(SimpleNamespace(original_model=inner))
    try:
        return inner(torch.ones(1, 2), **arguments)
    finally:
        finder.remove()


class Recurrent:
    def get_seq_length(self):
        raise ValueError("no attention layer")


@pytest.mark.parametrize(
    ("arguments", "place", "is_open"),
    [
        ({}, 0, False),
        ({"use_cache": True}, 0, True),
        ({"use_cache": False}, 0, False),
        ({"past_key_values": ((torch.ones(1, 2, 5, 4), torch.ones(1, 2, 5, 4)),)}, 5, True),
        ({"past_key_values": Recurrent(), "cache_position": torch.tensor([7, 8])}, 7, True),
        ({"past_key_values": Recurrent(), "position_ids": torch.tensor([[3, 4]])}, 3, True),
        ({"cache_params": object(), "cache_position": torch.tensor([2])}, 2, True),
    ],
)
def test_where_a_run_begins_is_read_from_what_the_model_is_given(arguments, place, is_open):
    found = start_of(**arguments)
    assert (found.place, found.is_open) == (place, is_open)


def test_a_cache_that_does_not_say_how_long_it_is_is_refused():
    padded = {
        "position_ids": torch.tensor([[3, 4]]),
        "attention_mask": torch.tensor([[0, 1, 1, 1, 1]]),
    }
    for arguments in ({}, padded, {"position_ids": torch.tensor([[3, 4], [2, 3]])}):
        with pytest.raises(tlm.ModulesError, match="need each token's position in its prompt"):
            start_of(past_key_values=Recurrent(), **arguments)


def test_an_edit_outside_any_model_takes_each_run_for_a_whole_prompt(module):
    _, hook = module.fwd_hooks("zero", positions=[0])[0]
    assert isinstance(hook, Edit)
    for length in (5, 1, 5):
        found = hook(torch.ones(1, length, WIDTH))
        assert (found[0, 0, ::2] == 0).all()
        assert (found[0, 1:] == 1).all()
