"""Drawn labels: which stay, and what is refused."""

import numpy as np
import pytest

import tl_modules as tlm
from tl_modules.tables.label_draws import N_DRAWS, LabelDraws


class Given:
    """Labels that are given draw by draw."""

    def __init__(self, *draws):
        self.draws = [draws[number % len(draws)] for number in range(N_DRAWS)]

    def draw_labels(self, prompts, n_draws, seed):
        """The first of them."""
        return np.array(self.draws[:n_draws], dtype=object)


def drawn(*draws):
    return LabelDraws.drawn(Given(*draws), ["p"] * len(draws[0]), seed=0)


def test_labels_that_are_the_same_in_all_draws_are_one_draw():
    found = drawn(["b", "a", "b"])
    known = LabelDraws.known(np.array(["b", "a", "b"], dtype=object))
    assert found.names == known.names == ["b", "a"]
    assert found.codes.tolist() == known.codes.tolist() == [[0, 1, 0]]
    assert found.groups.tolist() == [[1, 0, 1]]  # by name
    assert found.first_draw() == ["b", "a", "b"]


def test_labels_that_differ_stay_as_many_draws():
    found = drawn(["b", "a", "b"], ["b", "a", "a"])
    assert found.codes[:3].tolist() == [[0, 1, 0], [0, 1, 1], [0, 1, 0]]
    assert found.members("a").sum(axis=1)[:2].tolist() == [1, 2]


def test_a_label_without_a_prompt_in_some_draw_is_left_out():
    with pytest.warns(UserWarning, match="left out: 'c'"):
        found = drawn(["a", "b", "c"], ["a", "b", "b"])
    assert found.names == ["a", "b"]
    assert found.codes[:2].tolist() == [[0, 1, -1], [0, 1, 1]]
    assert found.groups[:2].tolist() == [[0, 1, -1], [0, 1, 1]]
    assert found.first_draw() == ["a", "b", "a"]


@pytest.mark.parametrize(
    ("draws", "message"),
    [
        ([["a"], ["b"]], "Some label should have a prompt in each of 20 draws; none of 'a', 'b'"),
        ([["a", None]], "Every prompt should have a category"),
    ],
)
def test_what_cannot_be_pooled_is_refused(draws, message):
    with pytest.raises(tlm.ModulesError, match=message):
        drawn(*draws)


def test_draws_for_another_number_of_prompts_are_refused():
    with pytest.raises(tlm.ModulesError, match=r"each of the 2 prompts, 20 times; got .*\(20, 1\)"):
        LabelDraws.drawn(Given(["a"]), ["p", "q"], seed=0)
