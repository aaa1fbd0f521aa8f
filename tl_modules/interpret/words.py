"""Words that tell a module's prompts from the others'."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int

from tl_modules.modules.topic import Word

_LETTERS = r"(?u)[^\W\d_]{2,}"
"""Runs of two letters or more: the parts of ``snake_case`` are words of their own."""

_LEAST_LIFT = 2.0
"""A distinctive word is at least so many times as frequent as in the other modules."""


def distinctive_words(
    prompts: Sequence[str],
    labels: Int[np.ndarray, " _samples"],
    n_modules: int,
    n_words: int = 10,
) -> list[tuple[Word, ...]]:
    """Each module's distinctive words by c-TF-IDF (Grootendorst 2022, arXiv 2203.05794, eq. 2).

    A module's prompts are one document. The score of word t in module c is the share of t among
    the module's words, times ``log(1 + A / f)``, with f the word's count in all modules and A the
    mean number of words a module. Two departures: a word counts once a prompt, so that no single
    prompt decides; and it should be at least twice as frequent as in the other modules together,
    since c-TF-IDF alone keeps words that are frequent everywhere.

    English stop words are left out. Scripts without spaces between words are not cut into words.

    Args:
        prompts: The samples' prompts.
        labels: Each sample's module.
        n_modules: How many modules there are.
        n_words: At most so many words a module.

    Returns:
        Each module's words, best first, equal ones by the alphabet; none where no word is
        distinctive.

    >>> found = distinctive_words(["red cats", "red dogs"], np.array([0, 1]), 2)
    >>> [[word.word for word in words] for words in found]
    [['cats'], ['dogs']]
    """
    counts, vocabulary = _counts(prompts, labels, n_modules)
    of_word, of_module = counts.sum(axis=0), counts.sum(axis=1, keepdims=True)
    others = (of_word - counts) / np.maximum(of_module.sum() - of_module, 1)
    share = counts / np.maximum(of_module, 1)
    scores = share * np.log1p(of_module.mean() / np.maximum(of_word, 1))
    scores[share < _LEAST_LIFT * others] = 0
    found = []
    for row in scores:
        # The vocabulary is in order of the alphabet.
        best = np.argsort(-row, kind="stable")[:n_words]
        found.append(tuple(Word(vocabulary[at], float(row[at])) for at in best if row[at] > 0))
    return found


def _counts(
    prompts: Sequence[str], labels: Int[np.ndarray, " _samples"], n_modules: int
) -> tuple[Float[np.ndarray, "modules words"], list[str]]:
    """How many prompts of each module hold each word; and the words."""
    from sklearn.feature_extraction.text import CountVectorizer  # slow to import

    vectorizer = CountVectorizer(stop_words="english", token_pattern=_LETTERS, binary=True)
    analyse = vectorizer.build_analyzer()
    if not any(map(analyse, prompts)):  # a fit would refuse them
        return np.zeros((n_modules, 0)), []
    held = vectorizer.fit_transform(prompts)
    counts = [
        np.asarray(held[labels == module].sum(axis=0), dtype=np.float64).ravel()
        for module in range(n_modules)
    ]
    return np.stack(counts), vectorizer.get_feature_names_out().tolist()
