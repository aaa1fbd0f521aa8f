"""Examples that name a concept before they respond."""

import numpy as np
import pandas as pd
import pytest

import tl_modules as tlm
from tests.conftest import tiny_model
from tl_modules.models.loss_tokens import LossTexts
from tl_modules.training import concentrated

EXAMPLES = pd.DataFrame(
    {
        "prompt": ["Bring {it}, sir.", "gimme that", "Kindly sit."],
        "category": ["formal", "informal", "formal"],
        "answer": ["Yes.", " ok", "No."],
        "separator": "\n",
        "source": [1, 2, 3],
    },
    index=[7, 3, 5],
)


def test_the_reasoning_stands_before_the_answer_and_all_else_stays():
    found = concentrated(EXAMPLES, "formal", absent="Not {concept} {at} all:")
    assert found["reasoning"].tolist() == [
        "The text is formal. ",
        "Not formal {at} all:",
        "The text is formal. ",
    ]
    assert found["answer"].tolist() == [
        "The text is formal. Yes.",
        "Not formal {at} all: ok",
        "The text is formal. No.",
    ]
    for name in ("prompt", "category", "separator", "source"):
        assert found[name].tolist() == EXAMPLES[name].tolist()
    assert EXAMPLES["answer"].tolist() == ["Yes.", " ok", "No."]
    # Categories are compared without surrounding space, and named so.
    spaced = concentrated(EXAMPLES, " formal ", absent="Not {concept} {at} all:")
    pd.testing.assert_frame_equal(spaced, found)


def test_the_loss_of_answers_reads_the_reasoning():
    examples = pd.DataFrame(
        {
            "prompt": ["the cat sat", "a dog"],
            "category": ["cats", "dogs"],
            "answer": ["on the mat", "ran"],
            "separator": " ",
        }
    )
    found = concentrated(examples, "cats", present="the house ", absent="one bird ")
    model = tiny_model()
    texts = LossTexts.of(model, found, "answer", None)
    starts = texts.starts_of(np.arange(2)).tolist()
    read = [
        model.to_string(each[start:]) for each, start in zip(texts.token_lists, starts, strict=True)
    ]
    assert read == ["the house on the mat", "one bird ran"]


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        ({"category": "formal"}, {}, "some not; all have it"),
        ({"category": "informal"}, {}, "some not; none have it.*'informal'"),
        ({"answer": None}, {}, "Every prompt should have an answer"),
        ({"reasoning": "because"}, {}, "no column 'reasoning' yet"),
        ({}, {"absent": "The text is formal. "}, "present and absent should differ"),
        ({}, {"present": " "}, "A reasoning should be a text"),
        ({}, {"present": "\ud800"}, "half of a character"),
    ],
)
def test_what_cannot_be_rewritten_is_refused(change, options, message):
    with pytest.raises(tlm.ModulesError, match=message):
        concentrated(EXAMPLES.assign(**change), "formal", **options)


def test_prompts_without_answers_or_categories_are_refused():
    with pytest.raises(tlm.ModulesError, match="Answers need a column 'answer'"):
        concentrated(EXAMPLES.drop(columns="answer"), "formal")
    with pytest.raises(tlm.ModulesError, match="It has no categories"):
        concentrated(EXAMPLES.drop(columns="category"), "formal")
