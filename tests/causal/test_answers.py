"""The answer metrics against log-probabilities worked out prompt by prompt."""

import numpy as np
import pandas as pd
import pytest
import torch

import tl_modules as tlm
from tl_modules.causal.metrics import make_task
from tl_modules.causal.prompt_runs import no_intervention, run_task
from tl_modules.causal.row_limits import RowLimit

ROWS = pd.DataFrame(
    {
        "prompt": ["the cat sat on the", "one plus two", "not", "if a red bird flew over the big"],
        "answer": ["mat", "equals three", "is was why", "house"],
        "category": ["x", "y", "x", "y"],
        "separator": " ",
    }
)


def by_hand(model, prompt, answer):
    """The answer's log-probability, and whether greedy decoding gives it."""
    start = model.to_tokens(prompt).shape[1]
    tokens = model.to_tokens(f"{prompt} {answer}")
    with torch.inference_mode():
        logits = model(tokens)[0].double()
    total, right = 0.0, True
    for position in range(start, tokens.shape[1]):
        log_probs = torch.log_softmax(logits[position - 1], dim=0)
        total += float(log_probs[tokens[0, position]])
        right &= int(log_probs.argmax()) == int(tokens[0, position])
    return total, right


def measured(model, frame, metric, batch_size=3):
    task = make_task(model, frame, metric, batch_size, None)
    return run_task(model, task, [no_intervention] * 2, RowLimit(16))


@pytest.mark.parametrize("batch_size", [1, 3, 4])
def test_answers_are_scored_as_by_hand_whatever_the_batch(model, batch_size):
    expected = [by_hand(model, *pair) for pair in zip(ROWS["prompt"], ROWS["answer"], strict=True)]
    surprise = measured(model, ROWS, "answer_logprob", batch_size)
    np.testing.assert_allclose(surprise, [[-total for total, _ in expected]] * 2, rtol=1e-4)
    wrong = measured(model, ROWS, "answer_accuracy", batch_size)
    assert wrong.tolist() == [[float(not right) for _, right in expected]] * 2


def test_an_answer_that_the_model_would_give_is_right(model):
    # Whatever the model would say next is the answer, so it is right.
    texts = ROWS["prompt"].tolist()
    answers = []
    for text in texts:
        with torch.inference_mode():
            logits = model(model.to_tokens(text))
        answers.append(model.tokenizer.decode([int(logits[0, -1].argmax())]).strip())
    known = [not answer.startswith("<") and answer != "" for answer in answers]
    assert any(known)
    frame = pd.DataFrame({"prompt": texts, "answer": answers, "separator": " "})[known].reset_index(
        drop=True
    )
    assert (measured(model, frame, "answer_accuracy") == 0).all()


@pytest.mark.filterwarnings("ignore:No module's own category")  # theirs are 'animal', 'code'
def test_module_effects_take_the_answer_metrics(model, modules):
    for metric in ("answer_logprob", "answer_accuracy"):
        found = tlm.module_effects(
            model, modules, ROWS, metric=metric, n_controls=2, progress=False
        )
        assert len(found) == 6
        clean = measured(model, ROWS, metric)[0]
        for category in ("x", "y"):
            rows = found[found["category"] == category]
            assert rows["loss"].iloc[0] == pytest.approx(clean[ROWS["category"] == category].mean())


@pytest.mark.parametrize(
    ("frame", "options", "message"),
    [
        (ROWS.drop(columns="answer"), {}, "need a column 'answer'"),
        (ROWS.assign(answer=["mat", None, "a", "b"]), {}, "prompt 1 has nan|prompt 1 has None"),
        (ROWS.assign(answer=["mat", "", "a", "b"]), {}, "prompt 1 has ''"),
        (ROWS, {"max_tokens": 4}, "it would cut the answers off"),
    ],
)
def test_prompts_without_answers_are_refused(model, modules, frame, options, message):
    with pytest.raises(tlm.ModulesError, match=message):
        tlm.module_effects(
            model, modules, frame, metric="answer_logprob", progress=False, **options
        )
