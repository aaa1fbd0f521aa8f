import numpy as np
import pytest

from tl_modules.interpret.words import distinctive_words


def words_of(prompts, labels, n_modules, n_words=10):
    found = distinctive_words(prompts, np.array(labels), n_modules, n_words)
    return [[word.word for word in words] for words in found]


def planted(n_prompts=12):
    """Modules of their own word in most prompts, beside words that all modules use alike."""
    generator = np.random.default_rng(0)
    common = ["water", "people", "number", "answer", "letter", "house"]
    prompts, labels = [], []
    for label, own in enumerate(["python", "poem", "french"]):
        for at in range(n_prompts):
            words = [*generator.permutation(common)[:4], *([own] if at % 4 else [])]
            prompts.append(" ".join(words))
            labels.append(label)
    return prompts, labels


def test_the_word_that_one_modules_prompts_hold_comes_first():
    found = words_of(*planted(), 3)
    assert [words[0] for words in found] == ["python", "poem", "french"]


def test_words_that_all_modules_use_alike_do_not_come_up():
    assert words_of(*planted(), 3) == [["python"], ["poem"], ["french"]]


def test_scores_are_those_of_the_paper_worked_out_by_hand():
    prompts = ["apple apple pear", "apple plum", "fig plum"]
    apple, pear = distinctive_words(prompts, np.array([0, 0, 1]), 2)[0]
    # Once a prompt: module 0 has 2 apple, 1 pear, 1 plum, module 1 has 1 fig, 1 plum; A = 6 / 2.
    assert apple == ("apple", pytest.approx(2 / 4 * np.log(1 + 3 / 2)))
    assert pear == ("pear", pytest.approx(1 / 4 * np.log(1 + 3 / 1)))


def test_no_single_prompt_decides_by_repeating_a_word():
    prompts = ["spam " * 50 + "loop", "loop", "loop", "rain", "rain"]
    assert words_of(prompts, [0, 0, 0, 1, 1], 2)[0] == ["loop", "spam"]


def test_stop_words_and_numbers_are_no_words_and_case_does_not_count():
    prompts = ["The LOOP of 2024 is a loop_body", "rain"]
    assert words_of(prompts, [0, 1], 2)[0] == ["body", "loop"]


def test_at_most_so_many_words_are_given():
    assert words_of(["one cat, two dogs, red birds", "rain"], [0, 1], 2, n_words=2)[0] == [
        "birds",
        "cat",
    ]


@pytest.mark.parametrize("prompts", [["the of", "and"], ["12 34", "!?"]])
def test_prompts_without_words_have_none(prompts):
    assert words_of(prompts, [0, 1], 2) == [[], []]


def test_a_module_without_prompts_has_no_words():
    assert words_of(["cats", "dogs"], [0, 2], 3)[1] == []
