"""A module's topic: what its prompts, words, contexts and output directions say it is about."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

import pandas as pd

from tl_modules.errors import ModulesError
from tl_modules.saving.checked_json import (
    checked_entries,
    checked_flag,
    checked_number,
    checked_text,
    checked_whole_number,
)
from tl_modules.tables.html_tables import html_table
from tl_modules.tables.text import text_column

_N_LABEL_WORDS = 3


class Word(NamedTuple):
    """A distinctive word."""

    word: str
    """The word, in lower case."""

    score: float
    """The word's c-TF-IDF."""


class Context(NamedTuple):
    """A token that drives the module, with the text around it."""

    before: str
    """The text before the token, a few tokens long."""

    token: str
    """The token's text."""

    after: str
    """The text after the token, a few tokens long."""

    value: float
    """The mean over the module's units of |activation| / the unit's mean |activation|."""

    prompt: int
    """The number, from 0, of the prompt in the topic's ``prompts``."""


class WrittenToken(NamedTuple):
    """A token whose logit the module's output direction moves."""

    token: str
    """The token's text."""

    logit: float
    """The token's logit from the direction alone, minus the mean logit of all tokens."""

    z: float
    """How far the logit stands out from the token's logits under directions of random units."""


def clear_tokens(tokens: tuple[WrittenToken, ...], chance_z: float | None) -> list[str]:
    """The quoted texts of the tokens that stand out more than chance makes any token stand out."""
    return [repr(token.token) for token in tokens if abs(token.z) > (chance_z or 0)]


@dataclass(frozen=True, repr=False)
class Topic:
    """What a module is about, as ``with_topics`` finds it."""

    label: str
    """A short name, unique in the set: "coding: python, function"."""

    categories: dict[str, float]
    """The share of the module's samples that each category has, largest first."""

    words: tuple[Word, ...]
    """Words that distinguish the module's prompts from those of other modules, best first."""

    prompts: tuple[str, ...]
    """The prompts that drive the module most, strongest first."""

    contexts: tuple[Context, ...] = ()
    """The tokens of ``prompts`` that drive the module most, strongest first."""

    promoted: tuple[WrittenToken, ...] = ()
    """The tokens that the module's output direction makes likelier, clearest first."""

    suppressed: tuple[WrittenToken, ...] = ()
    """The tokens that the module's output direction makes less likely, clearest first."""

    chance_z: float | None = None
    """The largest |z| that any random direction reaches against the others, by chance."""

    notes: tuple[str, ...] = ()
    """Why contexts or tokens are missing, if they are."""

    label_is_given: bool = False
    """Whether a user gave the label, which then stands before "shared by all"."""

    def __repr__(self) -> str:
        """One line, not its texts."""
        counted = ("words", "prompts", "contexts", "promoted", "suppressed")
        sizes = ", ".join(f"{len(getattr(self, name))} {name}" for name in counted)
        return f"Topic({self.label!r}: {sizes})"

    def _repr_html_(self) -> str:
        """For Jupyter: what it holds, a line each."""
        found = {
            "categories": [f"{name} {share:.0%}" for name, share in self.categories.items()],
            "words": [word.word for word in self.words],
            "contexts": [repr(context.token) for context in self.contexts],
            "promoted": [repr(token.token) for token in self.promoted],
            "suppressed": [repr(token.token) for token in self.suppressed],
            "prompts": list(self.prompts),
        }
        table = pd.DataFrame({"": list(found), "what": text_column(map(", ".join, found.values()))})
        return html_table(repr(self), table, widest=400)

    def to_dict(self) -> dict[str, Any]:
        """The fields, JSON-ready."""
        found = {field.name: getattr(self, field.name) for field in fields(self)}
        return {
            name: [list(row) if isinstance(row, tuple) else row for row in value]
            if isinstance(value, tuple)
            else value
            for name, value in found.items()
        }

    @classmethod
    def from_dict(cls, described: dict[str, Any]) -> "Topic":
        """Rebuild a topic from what ``to_dict`` returned.

        Raises:
            ModulesError: If the description is malformed.
        """
        try:
            topic = cls(
                label=checked_text(described["label"]),
                categories={
                    checked_text(name): checked_number(share)
                    for name, share in dict(described["categories"]).items()
                },
                words=checked_entries(described["words"], _word),
                prompts=checked_entries(described["prompts"], checked_text),
                contexts=checked_entries(described["contexts"], _context),
                promoted=checked_entries(described["promoted"], _written),
                suppressed=checked_entries(described["suppressed"], _written),
                chance_z=None
                if described["chance_z"] is None
                else checked_number(described["chance_z"]),
                notes=checked_entries(described["notes"], checked_text),
                label_is_given=checked_flag(described.get("label_is_given", False)),
            )
            if not all(0 <= context.prompt < len(topic.prompts) for context in topic.contexts):
                raise ValueError("a context is of a prompt that is not there")
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise ModulesError(
                f"The file's topic is malformed: {error!r}. Find the topics again, or fetch "
                "an intact copy."
            ) from error
        return topic


def topic_label(
    category: str | None, words: Sequence[Word], number: int, others: Collection[str]
) -> str:
    """A module's label: its category and its first distinctive words.

    Args:
        category: Its category, if it has one that stands for its samples.
        words: Its distinctive words, best first.
        number: The module's.
        others: The other modules' labels, which it should differ from.

    Returns:
        Such as ``"coding: python, function"``.
    """
    parts = [category, ", ".join(_label_words(words, category))]
    label = ": ".join(part for part in parts if part) or f"module {number}"
    while label in others:
        label = f"{label} ({number})"
    return label


def _label_words(words: Sequence[Word], category: str | None) -> list[str]:
    """The first words, without those that begin as another does: plurals say nothing new."""
    chosen = [] if category is None else category.casefold().split(" / ")
    n_wanted = len(chosen) + _N_LABEL_WORDS
    for word, _ in words:
        if not any(word.startswith(other) or other.startswith(word) for other in chosen):
            chosen.append(word)
    return chosen[n_wanted - _N_LABEL_WORDS : n_wanted]


def _word(row: Any) -> Word:
    word, score = row
    return Word(checked_text(word), checked_number(score))


def _context(row: Any) -> Context:
    before, token, after, value, prompt = row
    return Context(
        checked_text(before),
        checked_text(token),
        checked_text(after),
        checked_number(value),
        checked_whole_number(prompt),
    )


def _written(row: Any) -> WrittenToken:
    token, logit, z = row
    return WrittenToken(checked_text(token), checked_number(logit), checked_number(z))
