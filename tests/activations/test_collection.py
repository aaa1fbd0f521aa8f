import numpy as np
import pandas as pd
import pytest
import torch

import tl_modules as tlm
from tests.conftest import tiny_model, unsaid
from tl_modules.models.runs import run_hooks_only


def mean_abs_by_hand(model, prompt):
    """One prompt, no batch, no padding, every activation from the cache."""
    tokens = model.to_tokens(prompt)
    with torch.inference_mode():
        _, cache = model.run_with_cache(tokens)
    layers = [cache[f"blocks.{layer}.mlp.hook_post"][0] for layer in range(model.cfg.n_layers)]
    return torch.cat([layer.abs().mean(0) for layer in layers]).numpy()


def test_values_are_mean_absolute_activations_over_the_prompts_own_tokens(model, acts, prompts):
    for row in (0, 7, 15):
        expected = mean_abs_by_hand(model, prompts["prompt"][row])
        np.testing.assert_allclose(acts.values[row], expected, rtol=1e-5)


def test_columns_are_neurons_layer_by_layer(acts):
    frame = acts.units.to_frame()
    assert list(frame.columns) == ["layer", "hook_name", "unit"]
    assert frame.iloc[13].tolist() == [1, "blocks.1.mlp.hook_post", 1]
    assert len(acts.units) == 3 * 12


def test_rows_keep_the_order_and_columns_of_the_prompts(acts, prompts):
    assert acts.samples["prompt"].tolist() == prompts["prompt"].tolist()
    assert acts.samples["category"].tolist() == prompts["category"].tolist()
    assert acts.samples["n_tokens"].min() >= 2


@pytest.mark.parametrize("batch_size", [1, 5, 16])
def test_the_batch_size_does_not_matter(model, prompts, acts, batch_size):
    other = tlm.collect(model, prompts, batch_size=batch_size, progress=False)
    np.testing.assert_allclose(other.values, acts.values, rtol=1e-4)
    np.testing.assert_allclose(other.unit_means, acts.unit_means, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("side", ["left", "right"])
def test_the_tokenizers_padding_side_does_not_matter(model, prompts, acts, side, monkeypatch):
    monkeypatch.setattr(model.tokenizer, "padding_side", side)
    other = tlm.collect(model, prompts, batch_size=5, progress=False)
    np.testing.assert_allclose(other.values, acts.values, rtol=1e-4)


@pytest.mark.slow
def test_batch_size_and_padding_do_not_matter_on_the_real_model(demo_model):
    from tl_modules.data import load_prompts

    prompts = load_prompts().groupby("category").head(2)["prompt"].tolist()
    one, many = (
        tlm.collect(demo_model, prompts, batch_size=size, max_tokens=48, progress=False)
        for size in (1, 16)
    )
    assert one.values.shape == (14, 30 * 1536)
    assert one.samples["n_tokens"].nunique() > 3  # so there was padding
    np.testing.assert_allclose(many.values, one.values, rtol=1e-4)


def test_unit_means_are_signed_means_over_all_tokens(model, acts, prompts):
    total, n_tokens = 0, 0
    for prompt in prompts["prompt"]:
        tokens = model.to_tokens(prompt)
        _, cache = model.run_with_cache(tokens)
        total += cache["blocks.1.mlp.hook_post"][0].sum(0).detach().double().numpy()
        n_tokens += tokens.shape[1]
    np.testing.assert_allclose(acts.unit_means[12:24], total / n_tokens, rtol=1e-4, atol=1e-7)
    assert (acts.unit_means < 0).any()  # signed, not mean |a|


def test_max_tokens_cuts_the_prompt(model, prompts):
    long = prompts["prompt"].iloc[-1]
    cut = tlm.collect(model, [long], max_tokens=4, progress=False)
    by_hand = tlm.collect(model, [" ".join(long.split()[:3])], progress=False)  # and BOS
    assert cut.samples["n_tokens"].tolist() == [4]
    np.testing.assert_allclose(cut.values, by_hand.values, rtol=1e-5)


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_collector_of_the_users_own_caches_equals_collect(model, prompts, acts, side):
    collector = tlm.Collector(model, units="mlp")
    for start in range(0, len(prompts), 6):
        rows = prompts.iloc[start : start + 6]
        lists = [model.to_tokens(prompt)[0] for prompt in rows["prompt"]]
        longest = max(map(len, lists))
        tokens = torch.zeros(len(lists), longest, dtype=torch.long)
        mask = torch.zeros_like(tokens)
        for row, one in enumerate(lists):
            places = slice(longest - len(one), None) if side == "left" else slice(len(one))
            tokens[row, places], mask[row, places] = one, 1
        _, cache = model.run_with_cache(
            tokens, names_filter=collector.names_filter, attention_mask=mask
        )
        collector.add(cache, attention_mask=mask, samples=rows)
    found = collector.matrix()
    np.testing.assert_allclose(found.values, acts.values, rtol=1e-4)
    assert found.samples["prompt"].tolist() == prompts["prompt"].tolist()


def test_a_collector_without_mask_or_samples_counts_every_position(model):
    collector = tlm.Collector(model)
    tokens = torch.tensor([[3, 4, 5], [6, 7, 8]])
    _, cache = model.run_with_cache(tokens, names_filter=collector.names_filter)
    collector.add(cache)
    collector.add(cache)
    matrix = collector.matrix()
    assert matrix.values.shape == (4, 36)
    assert matrix.samples["sample"].tolist() == [0, 1, 2, 3]
    assert matrix.samples["n_tokens"].tolist() == [3, 3, 3, 3]


def test_the_run_ends_at_the_last_hook_without_logits(model):
    reached = []
    last = "unembed.hook_in" if "unembed.hook_in" in model.hook_dict else "ln_final.hook_scale"
    with model.hooks(fwd_hooks=[(last, lambda activation, hook: reached.append(1))]):
        tlm.collect(model, ["cat dog"], progress=False)
        assert reached == []
        model(model.to_tokens("cat dog"))
        assert reached == [1]


def test_no_hook_stays_behind(model, prompts):
    tlm.collect(model, prompts, progress=False)
    assert all(not point.fwd_hooks for point in model.hook_dict.values())


def test_a_hook_point_that_never_fires_is_named(model):
    class Skips:
        """Runs, but never reaches the hook points."""

        cfg, hook_dict = model.cfg, model.hook_dict
        run_with_cache = run_with_hooks = hooks = to_tokens = staticmethod(lambda *a, **k: None)

    tokens = torch.tensor([[3, 4]])
    readers = {"blocks.1.mlp.hook_post": lambda activation: None}
    with pytest.raises(tlm.ModulesError, match=r"\['blocks.1.mlp.hook_post'\] never fired"):
        run_hooks_only(Skips(), tokens, torch.ones_like(tokens).bool(), readers)


@pytest.mark.parametrize("batch_size", [1, 2])
def test_a_pad_token_inside_a_prompt_is_a_token_like_any_other(model, batch_size, monkeypatch):
    monkeypatch.setattr(model.tokenizer, "padding_side", "left")
    monkeypatch.setattr(model.cfg, "default_prepend_bos", False)
    prompts = ["<pad> cat dog", "the a one two three"]
    found = tlm.collect(model, prompts, batch_size=batch_size, progress=False)
    tokens = model.to_tokens(prompts[0])
    _, cache = model.run_with_cache(tokens, attention_mask=torch.ones_like(tokens))
    expected = cache["blocks.2.mlp.hook_post"][0].abs().mean(0).detach().numpy()
    np.testing.assert_allclose(found.values[0, 24:], expected, rtol=1e-4)


@pytest.mark.parametrize(
    ("prompts", "message"),
    [
        ([], "at least one prompt; got none"),
        (["cat", ""], r"prompt 1 \(''\) has none"),
        ("cat dog", "should be a list of strings, .*; got one string"),
        (pd.DataFrame({"text": ["cat"]}), r"column 'prompt'; got \['text'\]"),
        (pd.DataFrame({"prompt": ["cat", None]}), "prompt 1 is"),
    ],
)
def test_bad_prompts_are_refused_before_the_model_runs(model, prompts, message):
    def forbidden(*args, **kwargs):
        raise AssertionError("the model ran")

    with (
        model.hooks(fwd_hooks=[("blocks.0.mlp.hook_post", forbidden)]),
        pytest.raises(tlm.ModulesError, match=message),
    ):
        tlm.collect(model, prompts, progress=False)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"units": "attn"},
            "units should be one of 'mlp', .*; got 'attn'",
        ),
        ({"batch_size": 0}, "batch_size should be at least 1; got 0"),
        ({"max_tokens": 0}, "max_tokens should be at least 1; got 0"),
    ],
)
def test_bad_options_are_refused(model, options, message):
    with pytest.raises(tlm.ModulesError, match=message):
        tlm.collect(model, ["cat"], progress=False, **options)


def test_an_activation_that_is_not_finite_is_named_by_hook_and_sample(model, prompts):
    def poison(activation, hook):
        activation = activation.clone()
        if activation.shape[1] > 25:
            activation[0, 0, 3] = float("nan")
        return activation

    with (
        model.hooks(fwd_hooks=[("blocks.1.mlp.hook_post", poison)]),
        pytest.raises(tlm.ModulesError, match=r"'blocks.1.mlp.hook_post', index 3, sample 1[45]"),
    ):
        tlm.collect(model, prompts, batch_size=2, progress=False)


def test_caches_that_do_not_fit_are_refused_and_add_nothing(model):
    collector = tlm.Collector(model)
    tokens = torch.tensor([[3, 4, 5], [6, 7, 8]])
    _, cache = model.run_with_cache(tokens, names_filter=collector.names_filter)
    _, partial = model.run_with_cache(tokens, names_filter=collector.names_filter[:1])
    with pytest.raises(tlm.ModulesError, match=r"should hold 'blocks.1.mlp.hook_post'"):
        collector.add(partial)
    with pytest.raises(tlm.ModulesError, match=r"shape of the tokens, \(2, 3\); got \(2, 2\)"):
        collector.add(cache, attention_mask=torch.ones(2, 2))
    with pytest.raises(tlm.ModulesError, match="row 1 of the attention mask is empty"):
        collector.add(cache, attention_mask=torch.tensor([[1, 1, 1], [0, 0, 0]]))
    wide = {name: torch.zeros(2, 3, 20) for name in collector.names_filter}
    with pytest.raises(
        tlm.ModulesError, match=r"12 values per token, .* it has shape \(2, 3, 20\)"
    ):
        collector.add(wide)
    with pytest.raises(tlm.ModulesError, match="one row per sample, 2; it has 1"):
        collector.add(cache, samples=["one"])
    with pytest.raises(tlm.ModulesError, match="This Collector holds no samples"):
        collector.matrix()


def test_a_model_without_a_tokenizer_is_refused(prompts):
    bare = tiny_model()
    bare.tokenizer = None
    with pytest.raises(tlm.ModulesError, match="should have a tokenizer"):
        tlm.collect(bare, prompts, progress=False)


def test_prompts_with_two_columns_of_one_name_are_refused(model, prompts):
    twice = prompts.rename(columns={"category": "prompt"})
    with pytest.raises(tlm.ModulesError, match="columns of different names"):
        tlm.collect(model, twice, progress=False)


@unsaid
def test_a_store_holds_what_the_matrix_would(model, prompts, acts, tmp_path):
    options = {"batch_size": 3, "progress": False}
    store = tlm.collect(model, prompts, store=tmp_path / "acts", **options)
    kept = store.matrix()
    rows = kept.samples["row"].to_numpy()
    assert sorted(rows) == list(range(len(prompts)))
    np.testing.assert_allclose(kept.values, acts.values[rows], rtol=1e-3, atol=1e-6)
    assert kept.samples["prompt"].tolist() == prompts["prompt"].iloc[rows].tolist()
    np.testing.assert_allclose(store.unit_means, acts.unit_means, rtol=1e-4, atol=1e-6)
    modules = tlm.discover(store, 3)
    effects = tlm.module_effects(model, modules, prompts.head(4), n_controls=1, progress=False)
    assert np.isfinite(effects["effect"]).all()


@pytest.mark.parametrize("half", ["\ud800", "the cat \udfff sat"])
def test_half_of_a_character_is_refused_by_its_prompt(model, half):
    with pytest.raises(tlm.ModulesError, match=r"prompt 1 holds half of a character.*utf-16"):
        tlm.collect(model, ["the cat", half], progress=False)


@pytest.mark.parametrize("text", ["🙂 cat", "قطة the", "e\u0301 cat", "\x00 cat"])
def test_text_of_any_script_is_read(model, text):
    acts = tlm.collect(model, ["the cat", text], progress=False)
    assert np.isfinite(acts.values).all()
