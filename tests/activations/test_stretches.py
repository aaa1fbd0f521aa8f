"""Long prompts run by ``chunk_tokens`` tokens at a time, with the numbers of one pass."""

import gc
import weakref
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

import tl_modules as tlm
from tests.architectures import ARCHITECTURES, hooked_model, hugging_face_model
from tests.conftest import LEGACY, WORDS
from tests.plain import Plain
from tl_modules.activations import batch_values, chunk_values, collection_memory, stretches
from tl_modules.activations.aggregate import left_out, reduced
from tl_modules.models import batch_sizes, content_tokens, past_tokens
from tl_modules.models.batch_sizes import batch_size_of
from tl_modules.models.past_tokens import check_keeps_past, past_bytes
from tl_modules.models.runs import forward

LENGTHS = (60, 39, 31, 26, 13, 7, 1)
QUIET = {"progress": False}
AGGREGATES = ("mean", "rms", "max", "fraction_active")


@pytest.fixture(scope="module")
def texts():
    generator = np.random.default_rng(0)
    return [" ".join(generator.choice(WORDS, size=length)) for length in LENGTHS]


@pytest.fixture(scope="module")
def llama():
    return hooked_model(hugging_face_model("Llama"), "Llama")


def assert_equal(parted, whole):
    np.testing.assert_allclose(parted.values, whole.values, rtol=1e-4, atol=1e-6)
    for means in ("unit_means", "content_means"):
        found, expected = getattr(parted, means), getattr(whole, means)
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    assert parted.samples.equals(whole.samples)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_stretches_give_the_numbers_of_one_pass_on_every_architecture(name, texts):
    model = hooked_model(hugging_face_model(name), name)
    units = "mlp+attn_heads+resid" if ARCHITECTURES[name].d_mlp else "attn_heads+resid"
    whole = tlm.collect(model, texts, units=units, **QUIET)
    parted = tlm.collect(model, texts, units=units, chunk_tokens=13, batch_size=3, **QUIET)
    assert_equal(parted, whole)


@pytest.mark.skipif(LEGACY, reason="no HookedTransformer of this shape is made for tests")
@pytest.mark.parametrize(("window", "chunk_tokens"), [(4, 13), (8, 5), (20, 13)])
def test_layers_of_sliding_attention_keep_their_window(window, chunk_tokens, texts, monkeypatch):
    options = ARCHITECTURES["Gemma 3"].options
    monkeypatch.setitem(options, "layer_types", ["sliding_attention", "full_attention"])
    monkeypatch.setitem(options, "sliding_window", window)
    model = hooked_model(hugging_face_model("Gemma 3"), "Gemma 3")
    whole = tlm.collect(model, texts, **QUIET)
    assert_equal(tlm.collect(model, texts, chunk_tokens=chunk_tokens, **QUIET), whole)


@pytest.mark.skipif(LEGACY, reason="a HookedTransformer for tests is made in float32")
@pytest.mark.parametrize("name", ["Llama", "Mixtral"])
def test_in_16_bits_values_are_as_near_as_rounding_allows(name, texts):
    model = hooked_model(hugging_face_model(name).bfloat16(), name)
    whole = tlm.collect(model, texts, units="resid", **QUIET)
    parted = tlm.collect(model, texts, units="resid", chunk_tokens=13, **QUIET)
    assert model.original_model.dtype == torch.bfloat16
    assert np.median(np.abs(parted.values / whole.values - 1)) < 0.01


@pytest.mark.parametrize(
    ("aggregate", "tokens"),
    [("mean", "content"), ("rms", "last"), ("max", "all"), ("fraction_active", "content")],
)
def test_every_aggregate_and_choice_of_tokens(aggregate, tokens, llama, texts):
    options = {"aggregate": aggregate, "tokens": tokens, **QUIET}
    whole = tlm.collect(llama, texts, **options)
    assert_equal(tlm.collect(llama, texts, chunk_tokens=13, batch_size=4, **options), whole)


def test_answers_too_and_one_token_at_a_time(llama, texts):
    frame = [text.rsplit(" ", 2) for text in texts[:5]]
    frame = pd.DataFrame(
        {"prompt": [a for a, *_ in frame], "answer": [" ".join(b) for _, *b in frame]}
    )
    options = {"tokens": "answer", "separator": " ", **QUIET}
    whole = tlm.collect(llama, frame, **options)
    assert_equal(tlm.collect(llama, frame, chunk_tokens=1, **options), whole)


@pytest.mark.parametrize("span", [1, 3])
@pytest.mark.parametrize("aggregate", AGGREGATES)
def test_reductions_of_stretches_add_up_to_the_whole(aggregate, span):
    generator = torch.Generator().manual_seed(0)
    activation = torch.randn(3, 11, 6, generator=generator)
    counted = torch.rand(3, 11, generator=generator) > 0.4
    counted[1, :4], counted[2, 4:] = False, False  # stretches in which no token counts
    counted[:, 3] = torch.tensor([True, False, True])
    counted[1, 5] = True
    activation[~counted] = torch.nan  # padding may hold anything
    left = left_out(counted, counted & (counted.cumsum(1) > 1))
    whole = reduced(activation, span, counted, left, aggregate)
    reduction = stretches.Reduction(aggregate)
    for at in (slice(0, 4), slice(4, 8), slice(8, 11)):
        here = stretches.left_at(left, at)
        part = reduced(activation[:, at], span, counted[:, at], here, aggregate)
        reduction.add(part, counted[:, at].sum(1))
    for found, expected in zip(reduction.result(), whole, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-7)


def test_a_reduction_by_hand():
    # Two tokens of size 3 and 4, then one of size 5.
    values = torch.tensor([[[3.0], [-4.0], [5.0]]])
    expected = {"mean": 4.0, "rms": (50 / 3) ** 0.5, "max": 5.0, "fraction_active": 2 / 3}
    counted = torch.ones(1, 3, dtype=torch.bool)
    left = left_out(counted, counted)
    for aggregate, value in expected.items():
        reduction = stretches.Reduction(aggregate)
        for at in (slice(0, 2), slice(2, 3)):
            part = reduced(values[:, at].clone(), 1, counted[:, at], left, aggregate)
            reduction.add(part, torch.tensor([at.stop - at.start]))
        assert reduction.result().values.item() == pytest.approx(value)
        assert reduction.result().sums[0, 0].tolist() == [4.0]


def test_sinks_are_found_in_the_whole_prompt(llama, texts, monkeypatch):
    monkeypatch.setattr(content_tokens, "SINK_FACTOR", 1.3)  # a random model has no larger ones
    whole = tlm.collect(llama, texts, **QUIET)
    assert_equal(tlm.collect(llama, texts, chunk_tokens=13, **QUIET), whole)
    monkeypatch.setattr(content_tokens, "SINK_FACTOR", 10)
    without = tlm.collect(llama, texts, chunk_tokens=13, **QUIET)
    assert np.abs(without.content_means - whole.content_means).max() > 1e-3


def test_no_pass_is_longer_and_none_reaches_the_logits(llama, texts):
    shapes, logits = [], []
    hooks = [("blocks.1.hook_resid_pre", lambda x, hook: shapes.append(tuple(x.shape[:2])))]
    hooks.append(("ln_final.hook_normalized", lambda x, hook: logits.append(1)))
    with llama.hooks(fwd_hooks=hooks):
        tlm.collect(llama, texts, chunk_tokens=13, batch_size=2, **QUIET)
    tried, run = shapes[:9], shapes[9:]
    assert tried == [(1, 48), *[(1, 6)] * 8]  # the first tokens, both ways
    # With BOS 61 and 40 tokens, then 32 and 27, 14 and 8, and 2.
    of_first = [(2, 13)] * 4 + [(2, 9)]
    assert run == [*of_first, (2, 13), (2, 13), (2, 6), (2, 13), (2, 1), (1, 2)]
    assert not logits


def test_short_prompts_run_as_ever_bit_for_bit(llama, texts):
    whole = tlm.collect(llama, texts[2:], **QUIET)
    parted = tlm.collect(llama, texts[2:], chunk_tokens=32, **QUIET)
    np.testing.assert_array_equal(parted.values, whole.values)
    # Models without a cache do not mind either.
    tlm.collect(Plain(), ["1 2 3"], chunk_tokens=3, **QUIET)


def test_an_attached_edit_acts_at_the_same_tokens(llama, texts):
    modules = tlm.discover(tlm.collect(llama, texts, **QUIET), 2, **QUIET)
    for positions in ([2, 3, 40], "content"):
        with modules[0].ablated(llama, method="mean", positions=positions):
            options = {"units": "resid", **QUIET}
            whole = tlm.collect(llama, texts, **options)
            assert_equal(tlm.collect(llama, texts, chunk_tokens=13, **options), whole)
        assert np.abs(whole.values - tlm.collect(llama, texts, **options).values).max() > 1e-3


def test_an_edit_at_places_of_a_pass_is_refused(llama, texts):
    def first(x, hook):
        x[:, 0] = 0
        return x

    with (
        llama.hooks(fwd_hooks=[("blocks.0.hook_resid_pre", first)]),
        pytest.raises(
            tlm.ModulesError, match=r"should not change the activations but for rounding"
        ),
    ):
        tlm.collect(llama, texts, chunk_tokens=13, **QUIET)
    modules = tlm.discover(tlm.collect(llama, texts, **QUIET), 2, **QUIET)
    with (
        modules[0].ablated(llama, method="zero", positions="last"),  # of each pass
        pytest.raises(tlm.ModulesError, match=r"edits tokens by their place in the pass"),
    ):
        tlm.collect(llama, texts, units="resid", chunk_tokens=13, **QUIET)


def test_token_values_run_in_stretches_too(llama, texts):
    modules = tlm.discover(tlm.collect(llama, texts, units="mlp+attn_heads", **QUIET), 2, **QUIET)
    whole = tlm.token_values(llama, modules, texts, **QUIET)
    lengths = []
    hooks = [("blocks.0.hook_resid_pre", lambda x, hook: lengths.append(x.shape[1]))]
    with llama.hooks(fwd_hooks=hooks):
        parted = tlm.token_values(llama, modules, texts, chunk_tokens=13, batch_size=3, **QUIET)
    assert max(lengths[9:]) == 13  # after the first tokens, which run both ways
    np.testing.assert_allclose(parted[[0, 1]], whole[[0, 1]], rtol=1e-4)
    assert parted.drop(columns=[0, 1]).equals(whole.drop(columns=[0, 1]))


def test_a_store_is_resumed_with_the_same_stretches_alone(llama, texts, tmp_path, monkeypatch):
    monkeypatch.setattr(chunk_values, "CHUNK_BYTES", 1)
    monkeypatch.setattr(chunk_values, "LEAST_PROMPTS", 2)
    options = {"store": tmp_path / "acts", "batch_size": 2, "dtype": "float32", **QUIET}
    run, runs = batch_values._read, []

    def stopping(*args):
        if len(runs) == 7:  # in the second batch
            raise KeyboardInterrupt
        runs.append(1)
        return run(*args)

    monkeypatch.setattr(batch_values, "_read", stopping)
    with pytest.raises(KeyboardInterrupt, match="Interrupted after 2 of 7 prompts"):
        tlm.collect(llama, texts, chunk_tokens=13, **options)
    monkeypatch.undo()
    monkeypatch.setattr(chunk_values, "CHUNK_BYTES", 1)
    monkeypatch.setattr(chunk_values, "LEAST_PROMPTS", 2)
    for other in (None, 12):
        with pytest.raises(tlm.ModulesError, match="other settings: chunk_tokens differ"):
            tlm.collect(llama, texts, chunk_tokens=other, **options)
    store = tlm.collect(llama, texts, chunk_tokens=13, **options)
    found = store.matrix(np.argsort(store.samples["row"].to_numpy()))
    np.testing.assert_array_equal(
        found.values, tlm.collect(llama, texts, chunk_tokens=13, batch_size=2, **QUIET).values
    )
    # Where every prompt is one stretch, the option decides nothing.
    options["store"] = tmp_path / "short"
    tlm.collect(llama, texts[5:], chunk_tokens=13, **options)
    tlm.collect(llama, texts[5:], **options)


def test_memory_is_that_of_a_stretch_and_the_cache(llama, texts, monkeypatch):
    sizes = []
    monkeypatch.setattr(
        collection_memory, "check_memory", lambda work, size, *_: sizes.append(size)
    )
    monkeypatch.setattr(
        tlm.activations.collection, "check_needed_memory", collection_memory.check_needed_memory
    )
    for chunk_tokens in (None, 13, 2):
        tlm.collect(llama, texts[:1], chunk_tokens=chunk_tokens, **QUIET)
    n_tokens, held = len(llama.to_tokens(texts[0])[0]), 24
    whole, *parted = sizes
    past = 2 * 4 * n_tokens * 2 * 8  # keys and values of 2 layers, with one head of 8 for both
    assert parted == [whole + 4 * 3 * (n - n_tokens) * held + past for n in (13, 2)]


@pytest.mark.parametrize("name", ["GPT-2", "Llama"])
def test_the_estimate_of_the_cache_is_what_the_cache_takes(name):
    model = hooked_model(hugging_face_model(name), name)
    tokens = torch.arange(22).reshape(2, 11)
    for at, past in past_tokens.stretches(model, (2, 11), 4):
        part = tokens[:, at]
        forward(model, part, torch.ones_like(part, dtype=torch.bool), [], past=past)
    if LEGACY:
        kept = [(each.past_keys, each.past_values) for each in past._cache.entries]
    else:
        kept = [(layer.keys, layer.values) for layer in past._cache.layers]
    assert sum(part.nbytes for pair in kept for part in pair) == past_bytes(model, 22)


def test_a_refusal_says_what_the_cache_takes(llama, texts):
    options = {"max_memory": "1 kB", **QUIET}
    # 61 tokens of 2 layers, with keys and values of 8 numbers.
    said = (
        r"max_memory allows\. Of this, 7\.81 kB is for the keys and values of earlier tokens, which"
    )
    with pytest.raises(tlm.ModulesError, match=said):
        tlm.collect(llama, texts[:1], chunk_tokens=13, **options)
    with pytest.raises(tlm.ModulesError, match=r"smaller batch_size, max_tokens or chunk_tokens\."):
        tlm.collect(llama, texts[:1], **options)
    with pytest.raises(
        tlm.ModulesError, match=r"allows\. Pass a smaller batch_size or max_tokens\."
    ):
        tlm.collect(llama, texts[:1], weight="attribution", **options)


def test_the_cache_of_a_batch_is_gone_before_the_next_one_begins(llama, texts, monkeypatch):
    make, made, alive = past_tokens._past_tokens, [], []

    def watched(*args):
        alive.append(sum(past() is not None for past in made))
        past = make(*args)
        made.append(weakref.ref(past))
        return past

    monkeypatch.setattr(past_tokens, "_past_tokens", watched)
    gc.disable()
    try:
        tlm.collect(llama, texts, chunk_tokens=13, batch_size=2, **QUIET)
    finally:
        gc.enable()
    assert alive == [0] * 4  # of the trial, and of the batches of more than 13 tokens


@pytest.mark.parametrize("name", [name for name in ARCHITECTURES if name in ("GPT-2", "OPT")])
def test_a_prompt_beyond_the_learned_positions_is_refused(name, texts):
    model = hooked_model(hugging_face_model(name), name)
    model.cfg.n_ctx = 1000  # which the table of 64 positions does not follow
    both = " ".join(texts[:2])
    said = "at most 64 tokens, for this model has no more learned positions; prompt 1 has 100"
    for chunk_tokens in (None, 13):
        with pytest.raises(tlm.ModulesError, match=said):
            tlm.collect(model, ["the", both], chunk_tokens=chunk_tokens, **QUIET)
    whole = tlm.collect(model, [both], max_tokens=64, **QUIET)
    assert_equal(tlm.collect(model, [both], max_tokens=64, chunk_tokens=13, **QUIET), whole)
    model.tokenizer.chat_template = "{{ messages[0]['content'] }} how"
    with pytest.raises(tlm.ModulesError, match=r"fit the model's context of 64 tokens; it has 100"):
        tlm.collect(model, [both], chat=True, **QUIET)


def test_a_prompt_may_pass_the_context_of_a_model_that_computes_positions(texts):
    model = hooked_model(hugging_face_model("Llama"), "Llama")
    model.cfg.n_ctx = 1000
    both = [" ".join(texts[:2])]
    whole = tlm.collect(model, both, **QUIET)
    assert whole.samples["n_tokens"].tolist() == [100]
    assert_equal(tlm.collect(model, both, chunk_tokens=13, **QUIET), whole)


def test_auto_takes_more_prompts_of_one_stretch_than_of_a_whole_pass(llama, monkeypatch):
    monkeypatch.setattr(batch_sizes, "free_memory", lambda device: 10**8)
    whole, parted = (
        batch_size_of(llama, "auto", 2000, logits=False, chunk_tokens=at_once)
        for at_once in (None, 100)
    )
    assert whole == 1
    assert 1 < parted <= batch_sizes.ON_CPU


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"chunk_tokens": 0}, "chunk_tokens should be at least 1; got 0"),
        (
            {"chunk_tokens": 8, "weight": "attribution"},
            "gradients need a pass through the whole prompt; got weight='attribution'",
        ),
    ],
)
def test_what_stretches_cannot_give_is_refused(options, message, llama, texts, tmp_path):
    with pytest.raises(tlm.ModulesError, match=message):
        tlm.collect(llama, texts, store=tmp_path / "acts", **options, **QUIET)
    assert not (tmp_path / "acts").exists()


def test_a_model_without_a_cache_is_refused(request, prompts):
    with pytest.raises(tlm.ModulesError, match=r"'plain' takes no key-value cache. Leave chunk"):
        tlm.collect(Plain(), ["1 2 3 4"], chunk_tokens=3, **QUIET)
    if not LEGACY:  # TransformerLens' own models of 4.x have none
        with pytest.raises(tlm.ModulesError, match=r"'tiny' takes no key-value cache"):
            tlm.collect(request.getfixturevalue("model"), prompts, chunk_tokens=3, **QUIET)


def bridge_of(**text):
    """What is asked of a model that a bridge wraps."""
    fields = {"layer_types": None, "rope_parameters": None, "max_position_embeddings": 64, **text}
    config = SimpleNamespace(get_text_config=lambda decoder: SimpleNamespace(**fields))
    model = Plain()
    model.original_model = SimpleNamespace(config=config)
    return model


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ({"layer_types": ["full_attention", "linear_attention"]}, "has layers of linear_attention"),
        ({"layer_types": ["chunked_attention"]}, "has layers of chunked_attention"),
        ({"rope_parameters": {"rope_type": "dynamic"}}, "rescales its rotary embeddings"),
        (
            {"rope_parameters": {"full_attention": {"rope_type": "longrope"}}},
            "rescales its rotary embeddings",
        ),
    ],
)
def test_a_model_whose_numbers_depend_on_the_length_is_refused(text, message):
    with pytest.raises(tlm.ModulesError, match=message):
        check_keeps_past(bridge_of(**text), 65)


def test_a_model_is_taken_as_far_as_its_numbers_do_not_depend_on_the_length():
    check_keeps_past(bridge_of(rope_parameters={"rope_type": "dynamic"}), 64)
    check_keeps_past(bridge_of(rope_parameters={"rope_type": "yarn"}), 65)
    check_keeps_past(bridge_of(layer_types=["sliding_attention", "full_attention"]), 65)


@pytest.mark.skipif(not LEGACY, reason="TransformerLens 4 has no HookedTransformer")
def test_a_hooked_transformer_that_rescales_its_rotary_embeddings_is_refused(llama, monkeypatch):
    monkeypatch.setattr(llama.cfg, "use_dynamic_ntk_rope", True)
    monkeypatch.setattr(llama.cfg, "train_seq_length", 50)
    check_keeps_past(llama, 50)
    with pytest.raises(tlm.ModulesError, match="rescales its rotary embeddings"):
        check_keeps_past(llama, 51)


def test_a_cache_that_a_pass_did_not_fill_is_noticed(llama):
    parts = past_tokens.stretches(llama, (2, 9), 4)
    positions, past = next(parts)
    assert (positions, past.n_tokens) == (slice(0, 4), 0)
    with pytest.raises(tlm.ModulesError, match=r"kept 0 of 4\. Leave chunk_tokens out"):
        next(parts)
