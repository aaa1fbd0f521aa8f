"""The comparison of two devices, on one: it passes near ties, and fails on what is read wrongly."""

from types import SimpleNamespace

import pytest

import tl_modules as tlm
from tests.calls import followed
from tests.devices import check_alike, n_agreeing
from tl_modules.models.generation import continued

CLOSE = {"rtol": 1e-4, "atol": 1e-5}
CHAINS = ["a dog ran over the cat", "one plus two equals three"]


@pytest.fixture(scope="module")
def here(model, modules):
    return SimpleNamespace(model=model, modules=modules)


def greedy(model, tokens):
    return continued(model, tokens, 8, remedy="")


def test_states_that_are_read_wrongly_are_told(here, modules):
    expected = followed(here, chains=CHAINS).states
    check_alike(expected, followed(here, chains=CHAINS).states, **CLOSE)
    everything = tlm.Module(0, modules[0].units.every(), modules[0].samples)
    with (
        everything.ablated(here.model, "scale", factor=1.01),
        pytest.raises(AssertionError, match="distance_1"),
    ):
        check_alike(expected, followed(here, chains=CHAINS).states, **CLOSE)
    # The state before: one token of a thought is missing.
    shorter = [CHAINS[0].replace("over the", "over"), CHAINS[1]]
    with pytest.raises(AssertionError, match="distance_1"):
        check_alike(expected, followed(here, chains=shorter).states, **CLOSE)


def test_the_same_text_agrees_to_its_end(model):
    written = greedy(model, model.to_tokens("the cat sat")[0])
    assert n_agreeing(model, written, written.clone(), tie=0.0) == len(written)


@pytest.mark.parametrize("place", [5, 9])
def test_texts_that_part_where_a_token_leads_are_told(model, place):
    written = greedy(model, model.to_tokens("the cat sat")[0])
    other = written.clone()
    other[place] = (other[place] + 1) % 40
    with pytest.raises(AssertionError, match=f"part at token {place}, where the likeliest"):
        n_agreeing(model, written, other, tie=1e-3)
    with pytest.raises(AssertionError, match=f"part at token {place}"):
        n_agreeing(model, written, written[:place], tie=1e-3)


def test_texts_that_part_at_a_tie_agree_up_to_there(model):
    written = greedy(model, model.to_tokens("the cat sat")[0])
    place = 6
    chosen, twin = int(written[place]), (int(written[place]) + 1) % 40

    class Tied:
        """Two of its tokens are always as likely."""

        cfg = model.cfg

        def __call__(self, tokens):
            logits = model(tokens).clone()
            logits[..., twin] = logits[..., chosen]
            return logits

    other = written.clone()
    other[place:] = twin
    assert n_agreeing(Tied(), written, other, tie=1e-6) == place
    third = written.clone()
    third[place:] = (twin + 1) % 40  # none of the two that tie
    with pytest.raises(AssertionError, match=f"part at token {place}, where the likeliest leads"):
        n_agreeing(Tied(), written, third, tie=1e-6)
