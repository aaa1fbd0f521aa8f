"""What a model must offer, and what is refused of one that does not predict its next tokens."""

import warnings
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

import tl_modules as tlm
from tests.conftest import LEGACY, word_tokenizer
from tl_modules.models.generation import continued
from tl_modules.models.hooked_model import check_causal, check_model

QUIET = {"progress": False}
PROMPTS = ["the cat sat", "a dog ran on", "red is not blue"]


def encoder():
    """A tiny BERT: a bridge, or TransformerLens 3's HookedEncoder."""
    tokenizer = word_tokenizer()
    if LEGACY:
        from transformer_lens import HookedEncoder, HookedTransformerConfig

        config = {"n_layers": 2, "d_model": 16, "d_head": 8, "n_heads": 2, "d_mlp": 12, "n_ctx": 32}
        config |= {"d_vocab": len(tokenizer), "act_fn": "gelu", "model_name": "tiny BERT"}
        made = HookedTransformerConfig(**config, attention_dir="bidirectional")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            return HookedEncoder(made, tokenizer=tokenizer).eval()
    from transformer_lens.model_bridge import TransformerBridge
    from transformers import BertConfig, BertForMaskedLM

    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=12,
        max_position_embeddings=32,
    )
    bert = BertForMaskedLM(config)
    bert.config.architectures = ["BertForMaskedLM"]
    return TransformerBridge.boot_transformers(
        "tiny BERT", hf_model=bert, tokenizer=tokenizer
    ).eval()


@pytest.fixture(scope="module")
def bert():
    return encoder()


@pytest.fixture(scope="module")
def module(bert):
    names = tuple(f"blocks.{layer}.mlp.hook_post" for layer in range(2))
    units = tlm.Units.whole(names, (0, 1), (12, 12), site="mlp")
    samples = pd.DataFrame({"prompt": PROMPTS[:1]})
    return tlm.Module(0, units.select(np.arange(24) < 5), samples)


def answered():
    return pd.DataFrame({"prompt": PROMPTS, "answer": "mat", "separator": " "})


def questions():
    return answered().assign(choices=[["mat", "tree"]] * 3)


CALLS = {
    "metric='loss' needs": lambda m, e: tlm.module_effects(m, e, PROMPTS, method="zero", **QUIET),
    "metric='answer_logprob' needs": lambda m, e: tlm.module_effects(
        m, e, answered(), method="zero", metric="answer_logprob", **QUIET
    ),
    "weight='attribution' needs": lambda m, _: tlm.collect(
        m, PROMPTS, weight="attribution", **QUIET
    ),
    "unlearn needs": lambda m, e: tlm.training.unlearn(m, e, PROMPTS[:1], PROMPTS[1:], **QUIET),
    "thought_states needs": lambda m, _: tlm.thoughts.thought_states(
        m, questions(), chains=["so"] * 3, **QUIET
    ),
    "Generation needs": lambda m, _: continued(m, torch.tensor([3, 4]), 2, remedy=""),
}


@pytest.mark.parametrize("name", CALLS)
def test_what_takes_next_tokens_is_refused_of_an_encoder_before_it_runs(name, bert, module):
    runs = []
    counting = [("blocks.0.hook_resid_pre", lambda x, hook: runs.append(1))]
    with bert.hooks(fwd_hooks=counting), pytest.raises(tlm.ModulesError) as refused:
        CALLS[name](bert, module)
    said = str(refused.value)
    assert said.startswith(f"{name} a causal model")
    assert "got 'tiny BERT', whose attention is bidirectional. Use a causal language model" in said
    assert not runs


@pytest.mark.skipif(LEGACY, reason="HookedEncoder takes other arguments than HookedTransformer")
def test_an_encoders_plain_activations_are_collected(bert):
    acts = tlm.collect(bert, PROMPTS, batch_size=3, **QUIET)
    one = tlm.collect(bert, PROMPTS, batch_size=1, **QUIET)
    np.testing.assert_allclose(acts.values, one.values, rtol=1e-4, atol=1e-6)


def test_what_the_models_own_adapter_says_counts_too(model, monkeypatch):
    check_causal(model, "This")
    of_another = SimpleNamespace(supports_causal_loss=False)
    monkeypatch.setattr(model, "adapter", of_another, raising=False)
    with pytest.raises(tlm.ModulesError, match=r"This needs .* to which TransformerLens gives no"):
        check_causal(model, "This")


def test_an_encoder_and_decoder_is_refused(model, monkeypatch):
    of = SimpleNamespace(config=SimpleNamespace(is_encoder_decoder=True))
    monkeypatch.setattr(model, "original_model", of, raising=False)
    with pytest.raises(tlm.ModulesError, match="whose decoder predicts another text"):
        check_causal(model, "This")


def test_an_object_that_is_no_hooked_model_is_refused_with_what_it_lacks():
    with pytest.raises(tlm.ModulesError, match="got list, which lacks cfg, hook_dict"):
        check_model([])


def test_the_suite_runs_on_the_model_class_of_the_installed_transformer_lens(model):
    assert type(model).__name__ == ("HookedTransformer" if LEGACY else "TransformerBridge")


def test_any_object_with_the_six_names_will_do(model, prompts, acts):
    class Wrapped:
        """No subclass of anything, and no tokenizer: just the Protocol."""

        def __init__(self, inner):
            self.cfg, self.hook_dict = inner.cfg, inner.hook_dict
            self.run_with_cache, self.run_with_hooks = inner.run_with_cache, inner.run_with_hooks
            self.hooks, self.to_tokens = inner.hooks, inner.to_tokens

    wrapped = Wrapped(model)
    assert isinstance(wrapped, tlm.HookedModel)
    found = tlm.collect(wrapped, prompts, progress=False)
    np.testing.assert_array_equal(found.values, acts.values)
    modules = tlm.discover(found, 3)
    effects = tlm.module_effects(wrapped, modules, prompts, n_controls=1, progress=False)
    assert len(effects) == 6
