"""One BOS, and a word where a prompt does not fit the model's context."""

import warnings

import numpy as np
import pandas as pd
import pytest

import tl_modules as tlm
from tests.conftest import WORDS, byte_tokenizer, tiny_model, unsaid
from tl_modules.models.tokens import tokenise

QUIET = {"progress": False}
PLAIN = ["the cat sat on the mat", "one plus two equals three", "why is a bird blue", "print ( red"]
RENDERED = [f"<s>user\n{text}</s>\n" for text in PLAIN]
LONG = "the cat sat on the mat and ran " * 9
TEMPLATE = "<s>user\n{{ messages[0]['content'] }}</s>{{ '\n' }}"


@pytest.fixture(scope="module")
def chatty():
    """A model whose tokenizer has a template that begins with BOS, as most have."""
    tokenizer = byte_tokenizer(PLAIN)
    tokenizer.chat_template = TEMPLATE
    return tiny_model(tokenizer=tokenizer)


@pytest.fixture(scope="module")
def modules(chatty):
    return tlm.discover(tlm.collect(chatty, PLAIN, **QUIET), 2, **QUIET)


def silent(function, *args, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return function(*args, **options)


def ids(model, text):
    return model.tokenizer(text, add_special_tokens=False)["input_ids"]


def test_a_text_that_begins_with_bos_gets_no_second_one(chatty):
    bos = chatty.tokenizer.bos_token_id
    # What TransformerLens makes of it is the fault.
    assert chatty.to_tokens(RENDERED[0])[0, :2].tolist() == [bos, bos]
    found = silent(tokenise, chatty, [RENDERED[0], PLAIN[0]])
    assert found[0].tolist() == ids(chatty, RENDERED[0])
    assert found[1].tolist() == [bos, *ids(chatty, PLAIN[0])]
    # Two that are the text's own stay: the text is run as given.
    twice = "<s>" + RENDERED[0]
    assert silent(tokenise, chatty, [twice])[0].tolist() == ids(chatty, twice)


def test_a_model_that_adds_no_bos_runs_a_text_with_two_as_it_is(chatty, monkeypatch):
    monkeypatch.setattr(chatty.cfg, "default_prepend_bos", False)
    for text in (PLAIN[0], RENDERED[0], "<s>" + RENDERED[0]):
        assert tokenise(chatty, [text])[0].tolist() == ids(chatty, text)


def test_a_rendered_template_gives_the_activations_of_chat_form(chatty):
    with pytest.warns(UserWarning, match="4 of 4 prompts already start with '<s>'"):
        as_text = tlm.collect(chatty, RENDERED, **QUIET)
    as_chat = tlm.collect(chatty, PLAIN, chat=True, **QUIET)
    np.testing.assert_array_equal(as_text.values, as_chat.values)
    assert as_text.samples["n_tokens"].equals(as_chat.samples["n_tokens"])


def test_content_counts_no_special_token_at_either_end(chatty):
    texts = ["<s><s>the cat</s>", "the </s> cat</s></s>", "the cat"]
    acts = silent(tlm.collect, chatty, texts, tokens="content", **QUIET)
    n_cat = len(ids(chatty, "the cat"))
    inside = len(ids(chatty, "the </s> cat"))
    assert acts.samples["n_tokens"].tolist() == [n_cat, inside, n_cat]
    only = tlm.collect(chatty, ["the cat"], tokens="content", **QUIET)
    assert only.samples["n_tokens"].tolist() == [n_cat]
    with pytest.raises(tlm.ModulesError, match="prompt 0 has none to read with tokens='content'"):
        silent(tlm.collect, chatty, ["<s></s></s>"], tokens="content", **QUIET)


def test_an_unknown_word_is_content_wherever_it_stands(model):
    acts = tlm.collect(model, ["dinosaur cat", "cat dinosaur"], tokens="content", **QUIET)
    assert acts.samples["n_tokens"].tolist() == [2, 2]


CATEGORIES = ["x", "x", "y", "y"]
CALLS = {
    "collect": lambda m, _, f: tlm.collect(m, f, **QUIET),
    "collect answers": lambda m, _, f: tlm.collect(m, f, tokens="answer", **QUIET),
    "collect_reference": lambda m, _, f: tlm.collect_reference(m, f, **QUIET),
    "module_effects": lambda m, s, f: tlm.module_effects(
        m, s, f.assign(corrupted=f["prompt"]), method="patch", controls="attribution", **QUIET
    ),
    "module_effects of answers": lambda m, s, f: tlm.module_effects(
        m, s, f, metric="answer_logprob", **QUIET
    ),
    "dissociation": lambda m, s, f: tlm.dissociation(
        m, *s, f[:2], f[2:], controls="attribution", **QUIET
    ),
    "concept_effects": lambda m, s, f: tlm.concept_effects(m, s, "x", f, {"a": f}, **QUIET),
    "shared_units": lambda m, s, f: tlm.shared_units(m, f, s, n_units=2, **QUIET),
    "token_values": lambda m, s, f: tlm.token_values(m, s, f, **QUIET),
    "with_topics": lambda m, s, f: tlm.with_topics(
        silent(tlm.discover, silent(tlm.collect, m, f, **QUIET), 2, **QUIET), m, **QUIET
    ),
    "with_corrupted": lambda m, _, f: tlm.with_corrupted(
        m, f.assign(prompt=f["prompt"].str[:8] + list("abcd")).drop(columns="answer")
    ),
    "unlearn": lambda m, s, f: tlm.training.unlearn(
        m, s[0], f[:2], f[2:], n_steps=1, **QUIET
    ).restore(m),
    "forgetting": lambda m, s, f: tlm.training.forgetting(
        m, s[0], f[:2], f[2:], n_steps=1, n_controls=1, **QUIET
    ),
    "eigenshift": lambda m, _, f: tlm.related.eigenshift(m, f[:2], f[2:], n_new_tokens=0, **QUIET),
    "thought_states": lambda m, _, f: tlm.thoughts.thought_states(
        m,
        f.assign(answer="red", choices=[["red", "blue"]] * len(f)),
        chains=["so"] * len(f),
        style="{question}",
        separator="\n",
        **QUIET,
    ),
}


@unsaid
@pytest.mark.parametrize("name", CALLS)
def test_each_call_says_once_that_a_prompt_begins_with_bos(name, chatty, modules):
    frame = pd.DataFrame({"prompt": RENDERED, "category": CATEGORIES, "answer": "red"})
    frame = frame.assign(prompt=[PLAIN[0], *RENDERED[1:]]) if "answer" in name else frame
    with pytest.warns(UserWarning, match="start with") as caught:
        CALLS[name](chatty, modules, frame)
    (said,) = [str(each.message) for each in caught if "start with" in str(each.message)]
    assert "prompts already start with '<s>'" in said
    assert r"the first is prompt" in said
    with pytest.warns(UserWarning, match="start with"):  # and again in the next call
        CALLS[name](chatty, modules, frame)


def test_the_warning_names_the_first_prompt_and_how_many(chatty):
    prompts = [PLAIN[0], *RENDERED]
    with pytest.warns(UserWarning, match="start with") as caught:
        tlm.collect(chatty, prompts, **QUIET)
    said = str(caught[0].message)
    assert "4 of 5 prompts already start with '<s>'" in said
    assert f"the first is prompt 1 ({RENDERED[0]!r})" in said


def test_a_prompt_that_is_cut_at_the_context_is_named(chatty):
    n_all = 1 + len(ids(chatty, LONG))
    assert n_all > 64
    with pytest.warns(UserWarning, match="are longer than") as caught:
        acts = tlm.collect(chatty, ["the cat", LONG, LONG], **QUIET)
    (said,) = [str(each.message) for each in caught]
    assert "2 of 3 prompts are longer than the model's context of 64 tokens" in said
    assert "the first is prompt 1 ('the cat sat on the mat and ran" in said
    assert f"which has {n_all}" in said
    assert "max_tokens=64 or less" in said
    assert acts.samples["n_tokens"].tolist()[1:] == [64, 64]


@pytest.mark.parametrize("max_tokens", [5, 64])
def test_a_prompt_that_is_cut_on_purpose_is_not_warned_about(chatty, max_tokens):
    acts = tlm.collect(chatty, [LONG], max_tokens=max_tokens, **QUIET)
    assert acts.samples["n_tokens"].tolist() == [max_tokens]
    with pytest.warns(UserWarning, match="longer than the model's context"):
        tlm.collect(chatty, [LONG], max_tokens=65, **QUIET)


def test_a_prompt_that_fills_the_context_exactly_is_not_cut(chatty):
    fits = chatty.tokenizer.decode(ids(chatty, LONG)[:63])
    assert len(ids(chatty, fits)) == 63
    assert [len(tokens) for tokens in tokenise(chatty, [fits])] == [64]
    # The BOS that is not added leaves room for a token more.
    begins = f"<s>{fits}"
    with pytest.warns(UserWarning, match="start with") as caught:
        (tokens,) = tokenise(chatty, [begins])
    assert tokens.tolist() == ids(chatty, begins)
    assert len(caught) == 1


def word_tokenizer_without_bos(split, **special):
    """A word-level tokenizer that has neither BOS nor EOS."""
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    vocabulary = {word: number for number, word in enumerate(["<pad>", "<unk>", *WORDS])}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    words.pre_tokenizer = split
    return PreTrainedTokenizerFast(
        tokenizer_object=words, unk_token="<unk>", pad_token="<pad>", **special
    )


def test_a_bos_that_runs_into_the_first_word_is_refused():
    from tokenizers import pre_tokenizers

    model = tiny_model(tokenizer=word_tokenizer_without_bos(pre_tokenizers.WhitespaceSplit()))
    words = [WORDS.index(word) + 2 for word in ("the", "cat", "sat")]
    assert model.to_tokens("the cat sat")[0].tolist() == [1, *words[1:]]  # the fault
    message = r"'<\|endoftext\|>' is none.*'the cat sat'.*default_prepend_bos = False"
    with pytest.raises(tlm.ModulesError, match=message):
        tlm.collect(model, ["the cat sat"], **QUIET)
    model.cfg.default_prepend_bos = False
    assert tokenise(model, ["the cat sat"])[0].tolist() == words
    assert tokenise(model, ["blorp cat"])[0].tolist() == [1, words[1]]


def test_unknown_words_and_a_bos_that_is_the_unknown_token_are_read():
    model = tiny_model()  # its BOS is <eos>, number 2
    assert tokenise(model, ["blorp"])[0].tolist() == [2, 1]
    from tokenizers import pre_tokenizers

    # As GPT-2 has it: one token is both.
    tokenizer = word_tokenizer_without_bos(
        pre_tokenizers.WhitespaceSplit(),
        bos_token="<unk>",
        name_or_path="words",
        add_bos_token=True,
    )
    model = tiny_model(tokenizer=tokenizer)
    assert tokenise(model, ["the cat"])[0].tolist() == model.to_tokens("the cat")[0].tolist()
