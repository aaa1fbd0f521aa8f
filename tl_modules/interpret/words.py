"""Find words that distinguish a module's prompts from the other modules' prompts."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int

from tl_modules.modules.topic import Word

_LETTERS = r"(?u)[^\W\d_]{2,}"
"""A word is a run of at least two letters, so the parts of ``snake_case`` are separate words."""

_LEAST_LIFT = 2.0
"""A distinctive word is at least this many times as frequent as in the other modules."""


def distinctive_words(
    prompts: Sequence[str],
    labels: Int[np.ndarray, " _samples"],
    n_modules: int,
    n_words: int = 10,
) -> list[tuple[Word, ...]]:
    """Find each module's distinctive words by c-TF-IDF.

    c-TF-IDF is eq. 2 of Grootendorst 2022 (arXiv 2203.05794).
    A module's prompts are one document. The score of word t in module c is the share of t among
    the module's words, times ``log(1 + A / f)``, with f the word's count in all modules and A the
    mean number of words per module. There are two departures from the paper. A word counts once per
    prompt, so that no single prompt decides. A word should be at least twice as frequent as in the
    other modules together, because c-TF-IDF alone keeps words that are frequent everywhere.

    English stop words are left out. Scripts without spaces between words are not split into words.

    Args:
        prompts: The samples' prompts.
        labels: The module of each sample.
        n_modules: The number of modules.
        n_words: The largest number of words per module.

    Returns:
        The words of each module, best first; words of equal score are in alphabetical order. A
        module without distinctive words has none.

    >>> per_module = distinctive_words(["red cats", "red dogs"], np.array([0, 1]), 2)
    >>> [[word.word for word in words] for words in per_module]
    [['cats'], ['dogs']]
    """
    counts, vocabulary = _counts(prompts, labels, n_modules)
    of_word, of_module = counts.sum(axis=0), counts.sum(axis=1, keepdims=True)
    others = (of_word - counts) / np.maximum(of_module.sum() - of_module, 1)
    share = counts / np.maximum(of_module, 1)
    scores = share * np.log1p(of_module.mean() / np.maximum(of_word, 1))
    scores[share < _LEAST_LIFT * others] = 0
    per_module = []
    for row in scores:
        # The vocabulary is sorted, so a stable sort puts equal scores in alphabetical order.
        best = np.argsort(-row, kind="stable")[:n_words]
        per_module.append(
            tuple(Word(vocabulary[word], float(row[word])) for word in best if row[word] > 0)
        )
    return per_module


def _counts(
    prompts: Sequence[str], labels: Int[np.ndarray, " _samples"], n_modules: int
) -> tuple[Float[np.ndarray, "modules words"], list[str]]:
    """Count the prompts of each module that hold each word; also return the words."""
    from sklearn.feature_extraction.text import CountVectorizer  # slow to import

    vectorizer = CountVectorizer(stop_words="english", token_pattern=_LETTERS, binary=True)
    analyse = vectorizer.build_analyzer()
    if not any(map(analyse, prompts)):  # fit_transform would raise on an empty vocabulary
        return np.zeros((n_modules, 0)), []
    word_in_prompt = vectorizer.fit_transform(prompts)
    counts = [
        np.asarray(word_in_prompt[labels == module].sum(axis=0), dtype=np.float64).ravel()
        for module in range(n_modules)
    ]
    return np.stack(counts), vectorizer.get_feature_names_out().tolist()
