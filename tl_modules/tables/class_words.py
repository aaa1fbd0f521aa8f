"""Find words that distinguish the texts of one class from the texts of other classes."""

import re
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int

LETTERS = r"(?u)[^\W\d_]{2,}"
"""A word is a run of at least two letters, so the parts of ``snake_case`` are separate words."""

_WORD = re.compile(LETTERS)
_LEAST_LIFT = 2.0
"""A distinctive word is at least this many times as frequent as in the other classes."""


def words_in(text: str) -> list[str]:
    """Return the words of a text in lower case, in their order.

    >>> words_in("The snake_case of 2 Cats")
    ['the', 'snake', 'case', 'of', 'cats']
    """
    return _WORD.findall(text.lower())


def class_words(
    texts: Sequence[str], labels: Int[np.ndarray, " _texts"], n_classes: int, n_words: int
) -> list[list[tuple[str, float]]]:
    """Find each class's distinctive words by c-TF-IDF.

    ``tl_modules.interpret.words.distinctive_words`` describes the score.

    Args:
        texts: The texts.
        labels: The class of each text, from 0.
        n_classes: The number of classes.
        n_words: The largest number of words per class.

    Returns:
        The words of each class with their scores, best first; words of equal score are in
        alphabetical order.

    >>> found = class_words(["red cats", "red dogs"], np.array([0, 1]), 2, 5)
    >>> [[word for word, _ in of_class] for of_class in found]
    [['cats'], ['dogs']]
    """
    counts, vocabulary = _counts(texts, labels, n_classes)
    of_word, of_class = counts.sum(axis=0), counts.sum(axis=1, keepdims=True)
    others = (of_word - counts) / np.maximum(of_class.sum() - of_class, 1)
    share = counts / np.maximum(of_class, 1)
    scores = share * np.log1p(of_class.mean() / np.maximum(of_word, 1))
    scores[share < _LEAST_LIFT * others] = 0
    per_class = []
    for row in scores:
        # The vocabulary is sorted, so a stable sort puts equal scores in alphabetical order.
        best = np.argsort(-row, kind="stable")[:n_words]
        per_class.append([(vocabulary[word], float(row[word])) for word in best if row[word] > 0])
    return per_class


def _counts(
    texts: Sequence[str], labels: Int[np.ndarray, " _texts"], n_classes: int
) -> tuple[Float[np.ndarray, "classes words"], list[str]]:
    """Count the texts of each class that hold each word; also return the words."""
    from sklearn.feature_extraction.text import CountVectorizer  # slow to import

    vectorizer = CountVectorizer(stop_words="english", token_pattern=LETTERS, binary=True)
    analyse = vectorizer.build_analyzer()
    if not any(map(analyse, texts)):  # fit_transform would raise on an empty vocabulary
        return np.zeros((n_classes, 0)), []
    word_in_text = vectorizer.fit_transform(texts)
    counts = [
        np.asarray(word_in_text[labels == number].sum(axis=0), dtype=np.float64).ravel()
        for number in range(n_classes)
    ]
    return np.stack(counts), vectorizer.get_feature_names_out().tolist()
