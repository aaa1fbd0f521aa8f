"""Prompts and answers are measured exactly as given, against log-probabilities by hand."""

import warnings

import numpy as np
import pandas as pd
import pytest
import torch

import tl_modules as tlm
from tests.conftest import byte_tokenizer, tiny_model
from tests.related.test_refusals import untyped
from tl_modules.models.answers import answers_of, tokenise_with_answers

QUIET = {"progress": False}
TEXTS = [
    "Question: is water wet? Answer yes or no.\nAnswer:\nyes",
    "the capital of France is Paris, the capital of Japan is Tokyo",
    "if x == 1:\n    return y(x)\n",
    "日本の首都は東京です。フランスの首都はパリです。",
]
# Prompt, answer, and whether their text would merge the prompt's last tokens.
PAIRS = [
    ("Question: is water wet?\nAnswer:\n", "yes", False),
    ("the capital of France is", "Paris", False),
    ("the capital of France is", " Paris", False),
    ("the capital of Japan is ", "Tokyo", True),
    ("the capi", "tal", True),
    ("日本の首都は", "東京", True),
    ("if x == 1:\n", "    return y(x)", True),
    ("    return y(", "x)", False),
]


@pytest.fixture(scope="module")
def reader():
    """A tiny model that reads any text, byte by byte at worst."""
    return tiny_model(tokenizer=byte_tokenizer(TEXTS))


@pytest.fixture(scope="module")
def module(reader):
    return tlm.discover(tlm.collect(reader, TEXTS, **QUIET), 2, **QUIET)[0]


def own_tokens(model, text):
    return model.tokenizer(text, add_special_tokens=False)["input_ids"]


def by_hand(model, prompt, answer, merges):
    """The answer's surprise after the prompt's own tokens, and whether it is missed."""
    bos = [model.tokenizer.bos_token_id]
    before, whole = bos + own_tokens(model, prompt), bos + own_tokens(model, prompt + answer)
    assert (whole[: len(before)] != before) == merges
    if merges:
        whole = before + own_tokens(model, answer)
    with torch.inference_mode():
        logprobs = model(torch.tensor([whole]))[0].double().log_softmax(-1)[len(before) - 1 : -1]
    after = torch.tensor(whole[len(before) :])
    loss = -logprobs.gather(1, after[:, None]).sum().item()
    return loss, float((logprobs.argmax(-1) != after).any())


def measured(model, module, frame, metric="answer_logprob", **options):
    options = {"metric": metric, "n_controls": 0} | options
    return tlm.module_effects(model, module, frame, **options, **QUIET)


@pytest.mark.parametrize(("prompt", "answer", "merges"), PAIRS)
def test_the_text_that_is_measured_is_the_text_that_is_given(
    reader, module, prompt, answer, merges
):
    frame = pd.DataFrame({"prompt": [prompt], "answer": [answer]})
    expected = by_hand(reader, prompt, answer, merges)
    with warnings.catch_warnings():
        if merges:
            warnings.simplefilter("ignore")
        found = [
            measured(reader, module, frame, metric)["loss"].item()
            for metric in ("answer_logprob", "answer_accuracy")
        ]
    assert found[0] == pytest.approx(expected[0], rel=1e-4)
    assert found[1] == expected[1]


@pytest.mark.parametrize("prompt", [*(prompt for prompt, _, _ in PAIRS), *TEXTS])
def test_the_models_own_greedy_token_is_never_missed(reader, module, prompt):
    """Whatever it is, white space too, and wherever the prompt ends, inside a word too."""
    before = torch.tensor([[reader.tokenizer.bos_token_id, *own_tokens(reader, prompt)]])
    with torch.inference_mode():
        best = reader(before)[0, -1].argsort(descending=True).tolist()
    texts = [reader.tokenizer.decode([token]) for token in best]
    # Bytes that are no character have no text.
    token, answer = next((t, s) for t, s in zip(best, texts, strict=True) if "\ufffd" not in s)
    frame = pd.DataFrame({"prompt": [prompt], "answer": [answer]})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        (tokens,), (start,) = tokenise_with_answers(reader, frame)
        loss = measured(reader, module, frame, "answer_accuracy")["loss"].item()
    assert tokens.tolist() == [*before[0].tolist(), token]
    assert start == before.shape[1]
    assert loss == float(token != best[0])


def test_whole_numbers_are_their_digits_and_other_numbers_are_refused():
    frame = pd.DataFrame({"prompt": ["2 + 2 =", "3 + 4 ="], "answer": [4, 7]})
    assert answers_of(frame) == ["4", "7"]
    with pytest.raises(tlm.ModulesError, match=r"prompt 0 has 4.0, .* frame\['answer'\].astype"):
        answers_of(frame.assign(answer=[4.0, 7.5]))


def test_a_prompt_and_an_answer_that_merge_are_named_once_a_call(reader, module):
    frame = pd.DataFrame(PAIRS, columns=["prompt", "answer", "merges"])
    said = r"with 4 of 8 prompts; the first is prompt 3: 'the capital of Japan is ' \+ 'Tokyo'"
    options = {"method": "patch", "n_controls": 1}
    paired = frame.assign(corrupted=frame["prompt"])
    with pytest.warns(UserWarning, match=said) as caught:
        measured(reader, module, paired, **options)
    assert len(caught) == 1
    moved = paired.loc[[3]].assign(prompt="the capital of Japan is", answer=" Tokyo")
    measured(reader, module, moved)  # as the warning advises: nothing is said


@pytest.fixture(scope="module")
def pairs():
    rows = [("the capital of France is", "Paris", "x"), ("the capital of Japan is", "Tokyo", "y")]
    return pd.DataFrame(rows, columns=["prompt", "answer", "category"])


def with_space(pairs):
    return pairs.assign(answer=" " + pairs["answer"])


@pytest.mark.parametrize("metric", ["answer_logprob", "answer_accuracy"])
def test_a_separator_is_as_if_the_answer_began_with_it(reader, module, pairs, metric):
    asked = measured(reader, module, pairs, metric, separator=" ")
    column = measured(reader, module, pairs.assign(separator=" "), metric)
    written = measured(reader, module, with_space(pairs), metric)
    assert set(asked["separator"]) == set(column["separator"]) == {"' '"}
    assert set(written["separator"]) == {"''"}
    for found in (column, written):
        pd.testing.assert_frame_equal(
            found.drop(columns="separator"), asked.drop(columns="separator")
        )
    none = measured(reader, module, pairs)
    assert not np.allclose(none["loss"], measured(reader, module, with_space(pairs))["loss"])


def test_each_prompt_may_have_a_separator_of_its_own(reader, module, pairs):
    found = measured(reader, module, pairs.assign(separator=[" ", None]))
    both = [measured(reader, module, each) for each in (with_space(pairs), pairs)]
    expected = [both[0]["loss"][0], both[1]["loss"][1]]  # of other padding, so of other rounding
    assert found["loss"].tolist() == pytest.approx(expected, rel=1e-5)
    assert set(found["separator"]) == {"'', ' '"}
    assert "separator" not in measured(reader, module, pairs, "loss")


def test_every_function_that_reads_answers_takes_a_separator(reader, module, pairs):
    modules = tlm.discover(tlm.collect(reader, TEXTS, **QUIET), 2, **QUIET)
    options = {"metric": "answer_logprob", "n_controls": 19, **QUIET}

    def of_concept(frame, **given):
        return tlm.concept_effects(reader, module, "x", frame, frame, **given, **options)

    def dissociated(frame, **given):
        return tlm.dissociation(reader, *modules, frame[:1], frame[1:], **given, **options)

    asked, written = (
        of_concept(each, **given)
        for each, given in ((pairs, {"separator": " "}), (with_space(pairs), {}))
    )
    assert asked["separator"].tolist() == ["' '"]
    assert asked["harm"].tolist() == written["harm"].tolist()
    asked = dissociated(pairs, separator=" ")
    written = dissociated(with_space(pairs))
    assert set(asked.effects["separator"]) == {"' '"}
    assert asked.effects["effect"].tolist() == written.effects["effect"].tolist()
    reference = tlm.collect_reference(reader, TEXTS, units="mlp+attn_heads", **QUIET)
    asked, written = (
        tlm.specialised_parts(reader, each, reference, kinds={"neuron": 3}, **given, **QUIET)
        for each, given in ((pairs, {"separator": " "}), (with_space(pairs), {}))
    )
    asked, written = ([part.units.flat().tolist() for part in each] for each in (asked, written))
    assert asked == written


def test_collect_reads_answers_exactly_as_given_and_notes_the_separator(reader, pairs):
    asked = tlm.collect(reader, pairs, tokens="answer", separator=" ", **QUIET)
    written = tlm.collect(reader, with_space(pairs), tokens="answer", **QUIET)
    np.testing.assert_array_equal(asked.values, written.values)
    assert asked.samples["separator"].tolist() == [" ", " "]
    assert written.samples["separator"].tolist() == ["", ""]
    assert asked.samples["n_tokens"].tolist() == [
        len(own_tokens(reader, f"{prompt} {answer}")) - len(own_tokens(reader, prompt))
        for prompt, answer in zip(pairs["prompt"], pairs["answer"], strict=True)
    ]


@pytest.mark.parametrize(
    ("frame", "options", "said"),
    [
        ({}, {"metric": "loss", "separator": " "}, "no answer is read; got ' '"),
        (
            {"separator": "\n"},
            {"separator": " "},
            "given once; separator=' ' differs from .*'\\\\n'",
        ),
        ({"separator": 3}, {}, "prompt 0 has 3. Correct it, or rename"),
        ({}, {"separator": "\ud800"}, "separator 0 holds half of a character"),
        ({"answer": ""}, {}, "prompt 0 has ''"),
        ({"answer": "x" * 99}, {}, "Prompt 0 with its answer should fit the model's context of 64"),
    ],
)
def test_separators_and_answers_that_cannot_be_are_refused(
    reader, module, pairs, frame, options, said
):
    with pytest.raises(tlm.ModulesError, match=said):
        measured(reader, module, pairs.assign(**frame), **options)


def test_a_separator_is_a_text_and_has_no_place_in_a_template(reader, module, pairs):
    with untyped(), pytest.raises(tlm.ModulesError, match="separator should be a text; got True"):
        measured(reader, module, pairs, separator=True)
    with pytest.raises(tlm.ModulesError, match="In chat form the template stands between"):
        tlm.collect(reader, pairs, tokens="answer", chat=True, separator=" ", **QUIET)
    with pytest.raises(tlm.ModulesError, match="no answer is read"):
        tlm.collect(reader, pairs, separator=" ", **QUIET)


def test_a_tokenizer_that_needs_a_space_between_two_words_is_told_so(model, modules):
    frame = pd.DataFrame({"prompt": ["the cat sat on"], "answer": ["mat"]})
    said = r"that of prompt 0 does not: 'the cat sat on' \+ 'mat'. Put a separator"
    with pytest.raises(tlm.ModulesError, match=said):
        measured(model, modules[0], frame)
    assert np.isfinite(measured(model, modules[0], frame, separator=" ")["loss"].item())


def test_an_answer_fits_where_prompt_and_answer_fill_the_context_exactly(reader, module):
    room = 64 - 1 - len(own_tokens(reader, "the capital"))
    frame = pd.DataFrame({"prompt": ["the capital"], "answer": ["\n" * room]})
    assert len(tokenise_with_answers(reader, frame)[0][0]) == 64
    with pytest.raises(tlm.ModulesError, match="context of 64 tokens; it has 65"):
        tokenise_with_answers(reader, frame.assign(answer="\n" * (room + 1)))
