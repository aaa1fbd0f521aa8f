"""Dawid and Skene's model on cases worked by hand and on the data of their paper."""

import numpy as np
import pytest

from tl_modules.evaluation import dawid_skene as room
from tl_modules.evaluation.dawid_skene import dawid_skene

FIRST = """
111 333 112 222 222 222 122 333 222 232 444 222 111 222 121 111 111 111 222 222 222 222 222
221 111 111 232 111 111 112 111 333 111 222 222 433 221 232 333 111 111 121 232 121 222
"""
OTHERS = """
1111 4334 2122 3121 3222 3322 2111 3433 2223 2223 4444 3343 1111 3212 1111 2111 1111 1111 2221
1322 2222 2221 3222 2222 1111 1111 2222 1111 1111 1121 1111 3233 1111 2222 3232 4343 2232 3233
3432 1111 1111 2111 2222 1111 2222
"""
"""Table 1 of Dawid and Skene (1979): five anaesthetists on 45 patients, the first three times."""


def counts_of(*answers, n_labels):
    """Counts of the answers of each annotator, one text of digits per prompt, from label 1."""
    counts = np.zeros((len(answers[0]), len(answers), n_labels), dtype=int)
    for annotator, each in enumerate(answers):
        for row, given in enumerate(each):
            for label in given:
                counts[row, annotator, int(label) - 1] += 1
    return counts


def planted():
    """180 prompts on which three annotators' answers are as frequent as the model says.

    Both labels are equally frequent. The first annotator errs on one prompt in 10, the others on
    one in 3. So all three agree on label 1 in 180 x (36 / 90 + 1 / 90) / 2 = 37 prompts, the first
    and one other in 18 + 2, and the first alone says 1 in 9 + 4.
    """
    patterns = {"111": 37, "112": 20, "121": 20, "122": 13}
    patterns |= {key.translate({49: "2", 50: "1"}): n for key, n in patterns.items()}
    rows = [pattern for pattern, n in patterns.items() for _ in range(n)]
    return rows, counts_of(*(list(column) for column in zip(*rows, strict=True)), n_labels=2)


RIGHT = (9 / 10, 2 / 3, 2 / 3)
"""The share of each planted annotator's right answers."""

EXPECTED = {"111": 36 / 37, "112": 18 / 20, "122": 9 / 13, "222": 1 / 37, "211": 4 / 13}
"""The probability of label 1: the first annotator alone outweighs the two others."""


def test_answers_as_frequent_as_the_model_says_give_the_model_back():
    rows, counts = planted()
    assert len(rows) == 180
    found = dawid_skene(counts)
    assert found.converged
    for confusion, right in zip(found.confusions, RIGHT, strict=True):
        np.testing.assert_allclose(confusion, [[right, 1 - right], [1 - right, right]], atol=1e-3)
    for pattern, probability in EXPECTED.items():
        assert found.probabilities[rows.index(pattern), 0] == pytest.approx(probability, abs=1e-3)


def test_the_data_of_the_paper_give_its_estimates():
    others = [[row[at] for row in OTHERS.split()] for at in range(4)]
    counts = counts_of(FIRST.split(), *others, n_labels=4)
    assert counts.sum() == 45 * 7
    found = dawid_skene(counts)
    np.testing.assert_allclose(
        found.probabilities.mean(axis=0), [0.40, 0.42, 0.11, 0.07], atol=0.005
    )
    np.testing.assert_allclose(
        found.confusions[0][:3],
        [[0.89, 0.11, 0, 0], [0.07, 0.88, 0.05, 0], [0, 0.34, 0.66, 0]],
        atol=0.005,
    )
    # Patient 3: 1, 1, 2 of the first, and 2, 1, 2, 2 of the others.
    assert found.probabilities[2].argmax() == 1


def likelihood(counts, found):
    prevalence = found.probabilities.mean(axis=0)
    rates = np.maximum(np.nan_to_num(found.confusions), 1e-300)
    each = np.log(np.maximum(prevalence, 1e-300)) + np.einsum("pal,ajl->pj", counts, np.log(rates))
    return np.logaddexp.reduce(each, axis=1).sum()


def test_no_other_start_near_the_fit_finds_a_higher_likelihood():
    generator = np.random.default_rng(0)
    truth = generator.choice(3, size=150, p=[0.5, 0.3, 0.2])
    answers = np.stack(
        [
            np.where(generator.random(150) < right, truth, generator.integers(3, size=150))
            for right in (0.8, 0.6, 0.5)
        ]
    )
    counts = np.eye(3, dtype=int)[answers.T]
    found = dawid_skene(counts)
    best = likelihood(counts, found)
    for _ in range(5):
        noise = generator.dirichlet(np.ones(3), size=150)
        other = dawid_skene(counts, start=0.8 * found.probabilities + 0.2 * noise)
        assert likelihood(counts, other) <= best + 1e-3


def test_an_annotator_that_always_says_the_same_tells_nothing():
    _, counts = planted()
    always = np.zeros((len(counts), 1, 2), dtype=int)
    always[:, 0, 0] = 1
    alone, beside = (
        dawid_skene(each) for each in (counts, np.concatenate([counts, always], axis=1))
    )
    np.testing.assert_allclose(beside.probabilities, alone.probabilities, atol=1e-3)
    np.testing.assert_allclose(beside.confusions[3], [[1, 0], [1, 0]], atol=1e-12)


def test_a_prompt_without_answers_has_the_overall_probabilities():
    _, counts = planted()
    counts = np.concatenate([counts[:100], np.zeros((1, 3, 2), dtype=int)])
    found = dawid_skene(counts)
    np.testing.assert_allclose(
        found.probabilities[-1], found.probabilities[:-1].mean(axis=0), atol=1e-6
    )


def test_what_an_annotator_answers_to_a_label_that_it_never_met_is_not_known():
    # The third annotates prompts of label 1 alone.
    counts = counts_of(["1", "1", "2", "2"], ["1", "1", "2", "2"], ["1", "1", "", ""], n_labels=2)
    found = dawid_skene(counts)
    np.testing.assert_allclose(found.probabilities, np.repeat(np.eye(2), 2, axis=0), atol=1e-9)
    np.testing.assert_allclose(found.confusions[2], [[1, 0], [np.nan, np.nan]], atol=1e-9)


def test_an_annotator_of_one_label_tells_nothing_of_prompts_that_nobody_else_answers():
    first, third = ["1", "1", "2", "2", ""], ["", "", "", "", "1"]
    found = dawid_skene(counts_of(first, first, third, n_labels=2))
    np.testing.assert_allclose(found.probabilities[4], [0.5, 0.5], atol=1e-5)


def test_three_thousand_annotators_do_not_underflow():
    generator = np.random.default_rng(0)
    truth = np.arange(12) % 3
    right = generator.random((3000, 12)) < 0.2
    answers = np.where(right, truth, generator.integers(3, size=(3000, 12)))
    found = dawid_skene(np.eye(3, dtype=int)[answers.T])
    assert found.converged
    np.testing.assert_allclose(found.probabilities, np.eye(3)[truth], atol=1e-6)


def test_weights_count_as_copies_of_prompts():
    _, counts = planted()
    weights = np.where(np.arange(len(counts)) % 3 == 0, 2.0, 1.0)
    copied = np.concatenate([counts, counts[::3]])
    found, expected = dawid_skene(counts, weights), dawid_skene(copied)
    np.testing.assert_allclose(found.confusions, expected.confusions, atol=1e-3)
    np.testing.assert_allclose(
        found.probabilities, expected.probabilities[: len(counts)], atol=1e-3
    )


def test_a_fit_that_is_cut_short_says_so(monkeypatch):
    monkeypatch.setattr(room, "LIMIT", 2)
    assert not dawid_skene(planted()[1]).converged
