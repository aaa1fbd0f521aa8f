"""Find words that distinguish a module's prompts from the other modules' prompts."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int

from tl_modules.modules.topic import Word
from tl_modules.tables.class_words import class_words


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
    return [
        tuple(Word(word, score) for word, score in of_module)
        for of_module in class_words(prompts, labels, n_modules, n_words)
    ]
