"""How much of a text is about a module: its own words in it, or what a user's function says."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from numbers import Real

import numpy as np
import pandas as pd

from tl_modules.errors import ModulesError, shown
from tl_modules.interventions.target import Target
from tl_modules.runtime.call_warnings import warn_user
from tl_modules.tables.class_words import class_words, words_in
from tl_modules.tables.labels import label_text
from tl_modules.tables.prompt_frames import categories_of

N_WORDS = 50
"""The largest number of words that distinguish a category's prompts from the others'."""

Score = Callable[[str], float]
"""A number for a text that the model wrote after a prompt."""


@dataclass(frozen=True)
class OwnWords:
    """The share of a text's words that are a module's own, each of which counts once.

    A text that repeats one of them for ever has a low share.

    >>> OwnWords(frozenset({"cat", "dog"}))("The cat, the cat, the cat.")
    0.16666666666666666
    """

    words: frozenset[str]
    """The module's own words, in lower case."""

    def __call__(self, text: str) -> float:
        """Return the share; 0 for a text without words, NaN if the module has none of its own."""
        if not self.words:
            return float("nan")
        found = words_in(text)
        return len(self.words.intersection(found)) / len(found) if found else 0.0


@dataclass(frozen=True)
class UserScore:
    """A user's function of a text, which should return a finite number."""

    scorer: Callable[[str], object]
    """The function."""

    def __call__(self, text: str) -> float:
        """Return the function's number.

        Raises:
            ModulesError: If the function returns anything else.
        """
        try:
            value = self.scorer(text)
        except Exception as error:
            error.add_note(f"scorer raised this for the text {shown(text)}.")
            raise
        if not isinstance(value, Real) or not np.isfinite(float(value)):
            raise ModulesError(
                f"scorer should return a finite number for every text; for {shown(text)} it "
                f"returned {shown(value)}. Return 0.0 for texts that it cannot judge."
            )
        return float(value)


def scores_of(
    targets: Sequence[Target],
    frame: pd.DataFrame,
    words: Mapping[int | str, Iterable[str]] | None,
    scorer: Callable[[str], object] | None,
) -> list[Score]:
    """Make what scores the texts that are written under each target.

    Args:
        targets: Modules and other targets.
        frame: The prompts, as ``labelled`` returned them.
        words: The own words of some targets, by label. By default they are the words of the
            target's topic and those that distinguish the prompts of its own category.
        scorer: A function that takes the place of words.

    Returns:
        One score per target.

    Raises:
        ModulesError: If both ``words`` and ``scorer`` are given, a label is none of the targets',
            or a word is not one word.
    """
    if scorer is not None:
        if words is not None:
            raise ModulesError(
                "words and scorer exclude each other: a scorer takes the place of words. Leave one "
                "of them out."
            )
        return [UserScore(scorer)] * len(targets)
    given = {} if words is None else {label: _own(label, each) for label, each in words.items()}
    unknown = [label for label in given if label not in [target.label for target in targets]]
    if unknown:
        raise ModulesError(
            f"words should be by the modules' labels, {[target.label for target in targets]}; "
            f"{unknown} are none of them. Pass {{{targets[0].label!r}: ['word', ...]}}."
        )
    of_category = _by_category(frame)
    found = [
        given.get(target.label) or _of_topic(target) | of_category.get(_category(target), set())
        for target in targets
    ]
    without = [target.label for target, own in zip(targets, found, strict=True) if not own]
    if without:
        warn_user(
            f"Modules {without} have no own words, neither of a topic nor of a category among the "
            "prompts', so that their score is NaN. Pass words={label: [...]}, or scorer=."
        )
    return [OwnWords(frozenset(own)) for own in found]


def repeated_share(text: str) -> float:
    """Return the share of a text's pairs of neighbouring words that occur earlier in it.

    A model's own loss is low on a text that repeats itself; this share is high.

    >>> repeated_share("go on and go on and go on"), repeated_share("go on")
    (0.5714285714285714, 0.0)
    """
    words = words_in(text)
    pairs = list(pairwise(words))
    return 1 - len(set(pairs)) / len(pairs) if pairs else 0.0


def _own(label: int | str, words: Iterable[str]) -> set[str]:
    """A user's words in lower case."""
    found = list(words)
    bad = [word for word in found if words_in(word) != [word.lower()]]
    if bad or not found:
        said = f"got {shown(bad[0])}" if bad else "got none"
        raise ModulesError(
            f"words[{label!r}] should be single words of two letters or more; {said}. Pass "
            "scorer= to look for anything else."
        )
    return {word.lower() for word in found}


def _category(target: Target) -> str:
    return label_text(target.category) or ""


def _of_topic(target: Target) -> set[str]:
    """The words of a module's topic, if it has one."""
    topic = getattr(target, "topic", None)
    return {word.word for word in topic.words} if topic is not None else set()


def _by_category(frame: pd.DataFrame) -> dict[str, set[str]]:
    """The words that distinguish each category's prompts from the others'."""
    categories = categories_of(frame)
    labels, names = pd.factorize(categories)
    if len(names) < 2:
        return {}
    found = class_words(frame["prompt"].tolist(), labels, len(names), N_WORDS)
    return {name: {word for word, _ in own} for name, own in zip(names, found, strict=True)}
