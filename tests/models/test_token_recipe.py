"""Many texts at once have the tokens of ``to_tokens`` text by text."""

import numpy as np
import pandas as pd
import pytest
import torch

import tl_modules as tlm
from tests.conftest import WORDS, byte_tokenizer, tiny_model
from tl_modules.models import token_recipe
from tl_modules.models.token_recipe import tokenised_together
from tl_modules.models.tokens import read_text, read_texts, tokenise


def texts_of(n=40, *, extra=()):
    generator = np.random.default_rng(0)
    made = [" ".join(generator.choice(WORDS, generator.integers(1, 12))) for _ in range(n)]
    return [*made[:5], "", *extra, *made[5:], "blorp", "  the  cat \n", made[0]]


def counted(model, monkeypatch):
    """How often the tokenizer is called, and to_tokens."""
    calls = {"tokenizer": 0, "to_tokens": 0}
    kind = type(model.tokenizer)
    original, one_text = kind.__call__, type(model).to_tokens

    def tokenizer_call(self, *args, **options):
        calls["tokenizer"] += 1
        return original(self, *args, **options)

    def to_tokens(self, *args, **options):
        calls["to_tokens"] += 1
        return one_text(self, *args, **options)

    to_tokens.__module__ = one_text.__module__
    monkeypatch.setattr(kind, "__call__", tokenizer_call)
    monkeypatch.setattr(type(model), "to_tokens", to_tokens)
    return calls


def check(model, texts):
    """The ids are those of to_tokens, and all the rest is that of reading each text alone."""
    together = tokenised_together(model, texts)
    assert together is not None
    for text, found in zip(texts, together, strict=True):
        assert found == model.to_tokens(text, truncate=False)[0].tolist(), text
    for text, found in zip(texts, read_texts(model, texts), strict=True):
        alone = read_text(model, text)
        assert found.tokens.tolist() == alone.tokens.tolist(), text
        assert found.whole.tolist() == alone.whole.tolist(), text
        assert found.has_bos == alone.has_bos, text
        assert found.tokens.dtype == torch.int64


@pytest.mark.parametrize("prepends", [True, False])
@pytest.mark.parametrize("of_tokenizer", ["words", "bytes"])
def test_ids_are_those_of_to_tokens(of_tokenizer, prepends):
    tokenizer = byte_tokenizer(["the cat sat", "one plus two"]) if of_tokenizer == "bytes" else None
    model = tiny_model(tokenizer=tokenizer) if tokenizer else tiny_model()
    model.cfg.default_prepend_bos = prepends
    bos, eos = model.tokenizer.bos_token, model.tokenizer.eos_token
    extra = [f"{bos}the cat", f"{bos}{bos}the cat", f"the cat{eos}", f"the {bos} cat", bos]
    check(model, texts_of(extra=extra))


@pytest.mark.parametrize("prepends", [True, False])
def test_a_tokenizer_that_adds_bos_itself(prepends):
    from tokenizers.processors import TemplateProcessing

    tokenizer = byte_tokenizer(["the cat sat", "one plus two"])
    bos = (tokenizer.bos_token, tokenizer.bos_token_id)
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"{bos[0]} $A", pair=f"{bos[0]} $A $B", special_tokens=[bos]
    )
    model = tiny_model(tokenizer=tokenizer)
    model.cfg.tokenizer_prepends_bos = True
    model.cfg.default_prepend_bos = prepends
    assert (model.to_tokens("the cat")[0, 0] == bos[1]) == prepends
    check(model, texts_of(extra=[f"{bos[0]}the cat"]))


def test_an_eos_that_the_tokenizer_adds_is_dropped():
    from tokenizers.processors import TemplateProcessing

    tokenizer = byte_tokenizer(["the cat sat", "one plus two"])
    eos = (tokenizer.eos_token, tokenizer.eos_token_id)
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"$A {eos[0]}", pair=f"$A $B {eos[0]}", special_tokens=[eos]
    )
    model = tiny_model(tokenizer=tokenizer)
    for drops in (True, False):
        model.cfg.tokenizer_appends_eos = drops
        check(model, texts_of(extra=[f"the cat{eos[0]}"]))


def test_texts_longer_than_the_context_are_cut_alike():
    model = tiny_model()
    long = "the cat sat on the mat and ran " * 20
    words = long.split()
    texts = [*texts_of(), long, *(" ".join(words[:n]) for n in range(58, 68))]
    n_ctx = model.cfg.n_ctx
    found = read_texts(model, texts)
    assert max(len(read.tokens) for read in found) == n_ctx < len(found[len(texts) - 11].whole)
    check(model, texts)


@pytest.mark.filterwarnings("ignore:This sequence already has")  # an empty text after BOS
def test_a_slow_tokenizer():
    from transformers import ByT5Tokenizer

    model = tiny_model(tokenizer=ByT5Tokenizer(extra_ids=0))
    assert not model.tokenizer.is_fast
    check(model, texts_of())


def test_the_tokenizer_is_called_once_for_many_prompts(monkeypatch):
    model = tiny_model()
    texts = [text for text in texts_of(200) if text]
    calls = counted(model, monkeypatch)
    tokenise(model, texts)
    assert calls["to_tokens"] < 10
    assert calls["tokenizer"] < 30  # the trials; one call for the prompts
    monkeypatch.setattr(token_recipe, "_TOGETHER", 50)
    before = dict(calls)
    found = tokenise(model, texts)
    assert calls["tokenizer"] - before["tokenizer"] < 34
    assert [tokens.tolist() for tokens in found] == [
        model.to_tokens(text)[0].tolist() for text in texts
    ]


def test_a_to_tokens_of_the_users_own_is_asked_for_each_text():
    model = tiny_model()

    class Loud(type(model)):
        def to_tokens(self, text, *args, **options):
            return super().to_tokens(text.lower(), *args, **options)

    texts = [text.upper() for text in texts_of() if text]
    model.__class__ = Loud
    assert tokenised_together(model, texts) is None
    assert tokenise(model, texts)[0].tolist() == model.to_tokens(texts[0])[0].tolist()


def test_a_model_that_no_recipe_repeats_is_asked_for_each_text(monkeypatch):
    model = tiny_model()
    original = type(model).to_tokens

    def reversed_tokens(self, *args, **options):
        return original(self, *args, **options).flip(1)

    reversed_tokens.__module__ = original.__module__
    monkeypatch.setattr(type(model), "to_tokens", reversed_tokens)
    texts = [text for text in texts_of() if text]
    assert tokenised_together(model, texts) is None
    assert tokenise(model, texts)[3].tolist() == model.to_tokens(texts[3])[0].tolist()


def test_answers_are_tokenised_together_too(monkeypatch):
    model = tiny_model()
    prompts = [text for text in texts_of(60) if text.strip()]
    frame = pd.DataFrame({"prompt": prompts, "answer": "big"})
    calls = counted(model, monkeypatch)
    tlm.collect(model, frame, tokens="answer", separator=" ", progress=False)
    assert calls["to_tokens"] < 20
