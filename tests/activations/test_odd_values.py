"""Activations that are no numbers, too large to add up in 16 or 32 bits, or hardly there."""

import copy
from contextlib import nullcontext

import numpy as np
import pandas as pd
import pytest
import torch

import tl_modules as tlm
from tests.conftest import tiny_model
from tests.toy import Toy
from tl_modules.activations.aggregate import left_out, reduced, without_overflow

AGGREGATES = ("mean", "rms", "max")


def all_of(x):
    return torch.ones(x.shape[:2], dtype=torch.bool)


def none_left(x):
    return left_out(all_of(x), all_of(x))


@pytest.mark.parametrize("aggregate", AGGREGATES)
@pytest.mark.parametrize("span", [1, 2])
@pytest.mark.parametrize(
    ("dtype", "value"),
    [(torch.float16, 60000.0), (torch.bfloat16, 1e38), (torch.bfloat16, 1e30)],
)
def test_sums_and_squares_of_large_16_bit_values_do_not_overflow(dtype, value, span, aggregate):
    x = torch.full((1, 1000, 4), value, dtype=dtype)
    found = without_overflow(
        lambda wide: reduced(x, span, all_of(x), none_left(x), aggregate, wide=wide)
    )
    own = float(x[0, 0, 0])
    np.testing.assert_allclose(found.values, own * np.sqrt(span), rtol=1e-5)
    np.testing.assert_allclose(found.sums[:, 0], 1000 * own, rtol=1e-5)


def test_a_length_beyond_float32_is_refused(model):
    collector = tlm.Collector(model, units="attn_heads")
    cache = {name: torch.full((1, 2, 2, 8), 3e38) for name in collector.names_filter}
    with pytest.raises(
        tlm.ModulesError, match=r"should be finite; at 'blocks\.0.*sample 0 it is inf"
    ):
        collector.add(cache)


@pytest.mark.parametrize("aggregate", AGGREGATES)
def test_a_hundred_thousand_tokens_add_up_as_in_float64(aggregate):
    x = torch.randn(1, 100_000, 16, generator=torch.Generator().manual_seed(0)) + 3
    exact = {
        "mean": x.double().abs().mean(1),
        "rms": x.double().square().mean(1).sqrt(),
        "max": x.double().abs().amax(1),
    }[aggregate]
    found = reduced(x, 1, all_of(x), none_left(x), aggregate)
    np.testing.assert_allclose(found.values, exact.numpy(), rtol=1e-6)
    np.testing.assert_allclose(found.sums[:, 0], x.double().sum(1).numpy(), rtol=1e-6)


@pytest.mark.parametrize("aggregate", [*AGGREGATES, "fraction_active"])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_no_number_is_refused_at_a_token_and_harmless_at_padding(model, aggregate, bad):
    tokens = torch.tensor([[3, 4, 5], [6, 7, 8]])
    mask = torch.tensor([[1, 1, 0], [1, 1, 1]])
    collector = tlm.Collector(model, reading=tlm.Reading(aggregate=aggregate))
    _, cache = model.run_with_cache(tokens, names_filter=collector.names_filter)
    whole = {name: cache[name].clone() for name in collector.names_filter}
    collector.add(whole, attention_mask=mask)
    expected = collector.matrix()
    whole["blocks.1.mlp.hook_post"][0, 2, 3] = bad
    other = tlm.Collector(model, reading=tlm.Reading(aggregate=aggregate))
    other.add(whole, attention_mask=mask)
    np.testing.assert_array_equal(other.matrix().values, expected.values)
    np.testing.assert_array_equal(other.matrix().unit_means, expected.unit_means)
    whole["blocks.1.mlp.hook_post"][0, 1, 3] = bad
    with pytest.raises(tlm.ModulesError, match=r"'blocks\.1\.mlp\.hook_post', index 3, sample 0"):
        other.add(whole, attention_mask=mask)


class Huge(Toy):
    """The toy with values in its second layer that are 1e38 times as large."""

    def __init__(self):
        """Grow what the layer's hook point passes on."""
        super().__init__()

        class Grown(type(self.blocks[1].mlp.hook_post)):
            def forward(self, activation):
                return super().forward(activation * 1e38)

        self.blocks[1].mlp.hook_post = Grown()
        self.setup()
        self.eval()


def test_means_whose_sums_overflow_float32_reach_a_store_whole(tmp_path):
    model = Huge()
    options = {"dtype": "bfloat16", "aggregate": "max", "progress": False}
    store = tlm.collect(model, ["4 4 4 4 4", "4 4"], store=tmp_path / "store", **options)
    # d = 0.4 at every token; the sum of the largest 16-bit values is beyond float32.
    np.testing.assert_allclose(store.unit_means, [0.4, 0.8, 2.8e38, 4e37], rtol=1e-5)


def test_means_that_are_no_numbers_are_refused(acts, modules, tmp_path):
    from dataclasses import replace

    bad = acts.unit_means.copy()
    bad[5] = np.nan
    for thing in (acts, modules):
        with pytest.raises(tlm.ModulesError, match="unit_means should be finite; entry 5 is nan"):
            replace(thing, unit_means=bad)
    writer = tlm.ActivationStore.create(tmp_path / "store", acts.units)
    writer.add(acts.values)
    writer.unit_means = bad
    with pytest.raises(tlm.ModulesError, match="unit_means should be finite; entry 5"):
        writer.close()
    assert not (tmp_path / "store" / "store.safetensors").exists()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("units", ["mlp", "attn_heads", "resid"])
def test_a_16_bit_models_matrix_is_about_the_float32_models(prompts, units, dtype):
    one = tiny_model()
    half = copy.deepcopy(one).to(dtype)
    expected = tlm.collect(one, prompts, units=units, progress=False).values
    found = tlm.collect(half, prompts, units=units, progress=False)
    assert found.values.dtype == np.float32
    np.testing.assert_allclose(found.values, expected, rtol=0.1, atol=0.02 * expected.max())


def test_prompts_of_one_token_are_read_but_predict_nothing(model, modules):
    acts = tlm.collect(model, ["the", "cat"], max_tokens=1, progress=False)
    assert acts.samples["n_tokens"].tolist() == [1, 1]
    last = tlm.collect(model, ["the", "cat"], tokens="last", progress=False)
    assert last.samples["n_tokens"].tolist() == [1, 1]
    for run in (
        lambda: tlm.module_effects(model, modules, ["the"], max_tokens=1, progress=False),
        lambda: tlm.collect(model, ["the"], max_tokens=1, weight="attribution", progress=False),
    ):
        with pytest.raises(tlm.ModulesError, match=r"at least two tokens.*prompt 0 has 1"):
            run()


def test_one_prompt_is_collected_but_holds_no_modules(model, tmp_path):
    acts = tlm.collect(model, ["the cat"], progress=False)
    store = tlm.collect(model, ["the cat"], store=tmp_path / "store", progress=False)
    assert acts.values.shape == store.shape == (1, 36)
    with pytest.raises(tlm.ModulesError, match=r"at least 2 samples; got 1\. Collect more prompts"):
        tlm.discover(acts, 2)
    with pytest.raises(tlm.ModulesError, match="Ask for fewer modules, or collect more prompts"):
        tlm.discover(store, 2)


@pytest.mark.parametrize("nothing", ["", " \n\t", "<bos>", "<bos> <bos>"])
def test_a_prompt_of_nothing_but_bos_is_refused(model, nothing):
    prompt = nothing.replace("<bos>", model.tokenizer.bos_token)
    with pytest.raises(tlm.ModulesError, match=r"prompt 1 .* has none"):
        tlm.collect(model, ["the cat", prompt], progress=False)


def test_missing_values_are_kept_as_none(model, tmp_path):
    frame = pd.DataFrame({"prompt": ["the cat", "a dog"], "note": pd.array([1, None], "Int64")})
    frame["when"] = [pd.NaT, pd.NaT]
    acts = tlm.collect(model, frame, progress=False)
    acts.save(tmp_path / "acts.safetensors")
    found = tlm.ActivationMatrix.load(tmp_path / "acts.safetensors").samples
    assert found["note"].isna().tolist() == [False, True]
    assert found["when"].isna().all()
    store = tlm.collect(model, frame, store=tmp_path / "store", progress=False)
    assert store.samples["note"].isna().sum() == 1


def test_halves_of_characters_in_categories_and_answers(model, acts, prompts, tmp_path):
    halves = pd.Series(["half \ud83d"] * len(prompts), dtype=object)
    frame = prompts.assign(category=halves)
    modules = tlm.with_topics(tlm.discover(tlm.collect(model, frame, progress=False), 2))
    # Shown with a question mark, saved as they are.
    assert set(modules.to_frame()["category"]) == {"half ?"}
    assert modules.describe()["label"].str.startswith("half ?").all()
    assert modules.to_frame()["category_share"].tolist() == [1, 1]
    modules.save_pretrained(tmp_path / "shared")
    found = tlm.ModuleSet.from_pretrained(tmp_path / "shared")
    assert found.samples["category"].tolist() == halves.tolist()
    # Not for tables of numbers by category.
    for run in (
        lambda: tlm.module_effects(model, modules, frame, progress=False),
        lambda: tlm.coverage(found, tlm.collect(model, frame, progress=False)),
    ):
        with pytest.raises(tlm.ModulesError, match="category 0 holds half of a character"):
            run()
    answers = prompts.assign(answer=halves)
    for run in (
        lambda: tlm.collect(model, answers, tokens="answer", progress=False),
        lambda: tlm.module_effects(model, modules, answers, metric="answer_logprob"),
    ):
        with pytest.raises(tlm.ModulesError, match="answer 0 holds half of a character"):
            run()


def test_a_models_name_may_hold_half_of_a_character(model, tmp_path, monkeypatch):
    monkeypatch.setattr(model.cfg, "model_name", "half \ud83d")
    store = tlm.collect(model, ["the cat"], store=tmp_path / "store", progress=False)
    assert store.model_name == "half \ud83d"


def test_a_column_that_cannot_be_saved_is_refused_before_a_folder_is_made(model, tmp_path):
    frame = pd.DataFrame({"prompt": ["the cat", "a dog"], "note": [object(), 1]})
    with pytest.raises(tlm.ModulesError, match="'note' should hold values that JSON can save"):
        tlm.collect(model, frame, store=tmp_path / "store", progress=False)
    assert not (tmp_path / "store").exists()


def test_a_hundred_thousand_tokens_are_one_prompt():
    acts = tlm.collect(Toy(), [" ".join(["3"] * 100_000)], progress=False)
    assert acts.samples["n_tokens"].tolist() == [100_000]
    np.testing.assert_allclose(acts.values, [[0.3, 0.6, 2.1, 0.3]], rtol=1e-6)
    np.testing.assert_allclose(acts.unit_means, [0.3, 0.6, 2.1, 0.3], rtol=1e-6)


@pytest.mark.parametrize("max_tokens", [None, 5])
def test_a_megabyte_is_cut_at_the_context_or_where_asked(model, max_tokens):
    long = " ".join(["cat"] * 250_000)
    said = f"1 of 2 prompts are longer than the model's context of {model.cfg.n_ctx} tokens"
    with nullcontext() if max_tokens else pytest.warns(UserWarning, match=said):
        acts = tlm.collect(model, [long, "the"], max_tokens=max_tokens, progress=False)
    assert acts.samples["n_tokens"].tolist() == [max_tokens or model.cfg.n_ctx, 2]


@pytest.mark.slow
def test_a_megabyte_is_cut_where_asked_on_the_real_model(demo_model):
    long = "The quick brown fox. " * 50_000
    acts = tlm.collect(demo_model, [long], max_tokens=32, progress=False)
    chat = tlm.collect(demo_model, [long], max_tokens=32, chat=True, progress=False)
    assert acts.samples["n_tokens"].tolist() == [32]
    assert chat.samples["n_tokens"][0] < 100
    np.testing.assert_array_equal(
        acts.values, tlm.collect(demo_model, [long[:2000]], max_tokens=32, progress=False).values
    )


def test_one_hook_points_activation_is_held_at_a_time(model, prompts):
    alive, most = [], 0

    class Held:
        def __del__(self):
            alive.pop()

    def watch(activation, hook):
        nonlocal most
        activation.held = Held()
        alive.append(1)
        most = max(most, len(alive))

    names = [f"blocks.{layer}.mlp.hook_post" for layer in range(3)]
    with model.hooks(fwd_hooks=[(name, watch) for name in names]):
        tlm.collect(model, prompts, progress=False)
    assert most == 1
