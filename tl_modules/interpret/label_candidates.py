"""Candidate labels of a module, and which prompts each label applies to."""

import re
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Float

from tl_modules.modules.module import Module
from tl_modules.modules.scored_labels import LabelKind
from tl_modules.modules.topic import Topic
from tl_modules.tables.labels import label_texts

_WORD = re.compile(r"[^\W\d_]{2,}")
"""Words as ``distinctive_words`` finds them: runs of at least two letters."""


class PromptContents:
    """What labels are compared with: each prompt's words and its category."""

    def __init__(self, samples: pd.DataFrame) -> None:
        """Read the columns ``prompt`` and, if there is one, ``category``."""
        self.texts = [str(prompt) for prompt in samples["prompt"]]
        self.words = [sorted(set(words_of(text))) for text in self.texts]
        self.categories = label_texts(samples["category"]) if "category" in samples else None


@dataclass(frozen=True)
class Candidate:
    """A label that has not been scored yet."""

    kind: LabelKind
    """Where the label comes from."""

    label: str
    """Its text."""

    terms: tuple[str, ...]
    """What a prompt is searched for: categories, words, or beginnings of words."""

    def match(self, prompts: PromptContents) -> Float[np.ndarray, " prompts"]:
        """How far the label applies to each prompt: the share of its terms that the prompt has.

        A category's label applies (1) or does not (0). Words and contexts are compared with whole
        words. Tokens, and words of a labeller's text, are compared with the words' beginnings: a
        token is often the first part of a word, and "question" should match "questions".
        """
        if self.kind == "category":
            categories = prompts.categories or [None] * len(prompts.texts)
            return np.array([float(category in self.terms) for category in categories])
        holds = _has_word if self.kind in ("words", "contexts") else _has_beginning
        n_terms = max(len(self.terms), 1)
        return np.array(
            [sum(holds(words, term) for term in self.terms) / n_terms for words in prompts.words]
        )


def candidates(
    module: Module, topic: Topic, written: Topic, n_words: int, *, with_category: bool
) -> list[Candidate]:
    """The labels that a module's samples, activity and output suggest.

    Args:
        module: The module.
        topic: Its topic.
        written: The topic whose promoted tokens count: the module's, or its core's.
        n_words: The largest number of words in a label.
        with_category: Whether the prompts to score on have categories.

    Returns:
        At most one label per kind, in the order of ``LabelKind``. A kind of which the module has
        nothing is missing.
    """
    found: list[Candidate] = []
    category = module.category_title
    if with_category and category is not None:
        terms = module.tied_categories or (module.category or category,)
        found.append(Candidate("category", category, terms))
    words: dict[LabelKind, Iterable[str]] = {
        "words": (word.word for word in topic.words),
        "contexts": _context_words(topic),
        "tokens": (token.token.strip().lower() for token in written.promoted),
    }
    for kind, listed in words.items():
        terms = _unalike(listed, n_words)
        if terms:
            found.append(Candidate(kind, ", ".join(terms), terms))
    return found


def free_text(label: str) -> Candidate:
    """A labeller's text as a candidate, which its words without English stop words score."""
    from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS  # slow to import

    words = dict.fromkeys(word for word in words_of(label) if word not in ENGLISH_STOP_WORDS)
    return Candidate("labeller", label, tuple(words))


def words_of(text: str) -> list[str]:
    """The words of a text in small letters, in order."""
    return _WORD.findall(text.lower())


def _context_words(topic: Topic) -> Iterable[str]:
    """The words that hold the tokens at which the module is most active, strongest first."""
    for context in topic.contexts:
        token = context.token.strip().lower()
        # Decoders of some models drop the space between a token and the text before it, so that
        # the word is looked up in the prompt.
        words = words_of(topic.prompts[context.prompt])
        yield from [word for word in words if token and token in word and _is_word(token)][:1]


def _is_word(text: str) -> bool:
    return _WORD.fullmatch(text) is not None


def _unalike(texts: Iterable[str], n_most: int) -> tuple[str, ...]:
    """The first words, without those that begin as another does: plurals say nothing new."""
    chosen: list[str] = []
    for text in texts:
        alike = any(text.startswith(other) or other.startswith(text) for other in chosen)
        if _is_word(text) and not alike and len(chosen) < n_most:
            chosen.append(text)
    return tuple(chosen)


def _has_word(words: Sequence[str], term: str) -> bool:
    at = bisect_left(words, term)
    return at < len(words) and words[at] == term


def _has_beginning(words: Sequence[str], term: str) -> bool:
    # Sorted words that begin with a term follow the term's own place.
    at = bisect_left(words, term)
    return at < len(words) and words[at].startswith(term)
