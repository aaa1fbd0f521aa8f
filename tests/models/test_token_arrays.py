"""Token ids and masks in the forms that tokenizers, NumPy and Python give them."""

import numpy as np
import pytest
import torch

import tl_modules as tlm
from tl_modules.models.token_arrays import as_mask, as_tokens

ROWS = [[1, 1, 0], [1, 0, 0]]


@pytest.mark.parametrize(
    "mask",
    [
        ROWS,
        tuple(map(tuple, ROWS)),
        [[True, True, False], [True, False, False]],
        np.array(ROWS),
        np.array(ROWS, dtype=np.uint8),
        np.array(ROWS, dtype=bool),
        np.array(ROWS, dtype=np.float32),
        [np.array(row) for row in ROWS],
        torch.tensor(ROWS),
        torch.tensor(ROWS).float(),
        list(torch.tensor(ROWS)),
    ],
)
def test_a_mask_of_any_form_is_the_same_mask(mask):
    found = as_mask("attention_mask", mask)
    assert found.dtype == torch.bool
    assert found.tolist() == [[True, True, False], [True, False, False]]


def test_what_is_one_prompts_gets_a_batch_axis():
    assert as_mask("attention_mask", [1, 0]).tolist() == [[True, False]]
    for tokens in ([3, 4], np.array([3, 4]), torch.tensor([3, 4])):
        assert as_tokens("tokens", tokens).tolist() == [[3, 4]]
    assert as_mask("attention_mask", None) is None


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        ([[1, 1], [1]], "should hold numbers, equally many in each row"),
        ([[[1, 1]]], "should have shape batch x pos"),
        ("11", "should hold numbers; got '11'"),
        ([["1", "1"]], "should hold numbers; got list"),
        ([[2, 1]], "should be 1 or True at the tokens to use"),
        (torch.tensor([[0.0, -torch.inf]]), "added to attention scores"),
        (np.array([[np.nan, 1.0]]), "should be 1 or True"),
    ],
)
def test_what_is_no_mask_is_refused(mask, message):
    with pytest.raises(tlm.ModulesError, match=f"attention_mask {message}|{message}"):
        as_mask("attention_mask", mask)


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        ("the cat", "should hold numbers; got 'the cat'"),
        (["the cat"], "should hold numbers; got list"),
        ([[1, 2], [3]], "equally many in each row"),
        ([[0.5, 1.0]], "should hold token ids; they are torch.float64"),
        ([[True]], "should hold token ids; they are torch.bool"),
        ([], "Tokens should have shape batch x pos, with at least one of each"),
        (np.zeros((0, 4), dtype=int), "with at least one of each"),
        (np.zeros((1, 2, 3), dtype=int), "should have shape batch x pos"),
    ],
)
def test_what_are_no_tokens_is_refused(tokens, message):
    with pytest.raises(tlm.ModulesError, match=message) as caught:
        as_tokens("clean_tokens", tokens)
    assert "clean_tokens" in str(caught.value)
    assert "Use model.to_tokens(prompts)" in str(caught.value)
