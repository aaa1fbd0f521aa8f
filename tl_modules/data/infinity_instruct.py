"""The paper's prompts: seven categories of Infinity-Instruct by their ability labels."""

import hashlib
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from typing import Annotated, Any

import numpy as np
import pandas as pd

from tl_modules.errors import ModulesError, check_at_least, check_seed
from tl_modules.runtime.arguments import Elsewhere, checked

ABILITIES: Mapping[str, tuple[str, ...]] = {
    "coding": (
        "code debugging",
        "code generation",
        "code understanding",
        "code writing",
        "java programming",
        "programming ability",
        "programming knowledge",
        "python programming",
    ),
    "math": (
        "algebra",
        "geometry knowledge",
        "mathematical calculation",
        "mathematical knowledge",
        "mathematical modeling",
        "mathematical proof",
        "mathematical reasoning",
    ),
    "linguistic": (
        "grammar analysis",
        "grammar knowledge",
        "linguistic knowledge",
        "sentence structure analysis",
        "syntactic analysis",
        "syntactic understanding",
    ),
    "knowledge": (
        "biology knowledge",
        "chemistry knowledge",
        "geographic knowledge",
        "historical knowledge",
        "legal knowledge",
        "medical knowledge",
        "physics knowledge",
    ),
    "translation": (
        "machine translation",
        "multilingual translation",
        "translation",
        "translation ability",
    ),
    "ethical": (
        "ethical analysis",
        "ethical and moral reasoning",
        "ethical judgment",
        "ethical reasoning",
        "moral reasoning",
    ),
    "writing": (
        "article writing",
        "creative writing",
        "poetry writing",
        "script writing",
        "story writing",
    ),
}
"""Which ability labels make a category: this project's choice, not the paper's."""


@checked
def select_abilities(
    frame: pd.DataFrame,
    *,
    n_train: int = 1000,
    n_test: int = 200,
    categories: Annotated[Mapping[str, Collection[str]], Elsewhere("labels")] = ABILITIES,
    language: str | None = "en",
    seed: int = 0,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """As many prompts of each category as the paper takes, to discover on and held out.

    After arXiv 2603.17823: a row belongs to a category by its ability labels, and one that fits
    more than one category is left out. The paper does not print its label lists; ``ABILITIES`` is
    this project's choice and was not tried on the whole dataset (docs/how-to/own-prompts.md says
    where the authors' lists are). Nor does the paper say that it keeps to one language.

    Which prompts are drawn depends on their texts and the seed alone, not on the order of the rows.

    Args:
        frame: Rows of BAAI/Infinity-Instruct, with the columns ``id``, ``conversations`` (turns
            ``{"from": "human", "value": ...}``), ``label`` (``{"ability_en": [...]}``) and
            ``langdetect``, as pandas reads them from its Parquet files. The prompt is the first
            turn, where that is a human's; rows without one or without labels are passed over.
        n_train: Prompts to discover on, a category; at least 1.
        n_test: Prompts held out, a category; at least 0.
        categories: The ability labels of each category; none in two.
        language: Only rows that ``langdetect`` says are in this language; None for all.
        seed: Another seed draws other prompts.

    Returns:
        The prompts to discover on and those held out, no text twice: columns ``id``, ``category``
        and ``prompt``, category by category.

    Raises:
        ModulesError: If the frame lacks a column, a label stands in two categories, a number is
            out of range, or a category has too few prompts.
    """
    check_at_least("n_train", n_train, 1)
    check_at_least("n_test", n_test, 0)
    check_seed(seed)
    _check_columns(frame, language)
    category_of = _category_of_label(categories)
    # By text, over all rows in the language: with other labels it may fit another category too.
    fits: dict[str, set[str]] = defaultdict(set)
    ids: dict[str, str] = {}
    for key, prompt, labels in _labelled_prompts(frame, language):
        found = {category_of[label] for label in labels if label in category_of}
        if found:
            fits[prompt] |= found
            ids[prompt] = min(ids.get(prompt, key), key)
    train, test = [], []
    for category in categories:
        prompts = sorted(
            (prompt for prompt, found in fits.items() if found == {category}),
            key=lambda prompt: _draw(seed, prompt),
        )
        if len(prompts) < n_train + n_test:
            raise ModulesError(
                f"The category {category!r} should have at least n_train + n_test = "
                f"{n_train + n_test} prompts; got {len(prompts)} that fit it alone, by the labels "
                f"{sorted(categories[category])}. Pass more rows, more labels, or ask for fewer."
            )
        rows = [(ids[prompt], category, prompt) for prompt in prompts[: n_train + n_test]]
        train += rows[:n_train]
        test += rows[n_train:]
    columns = ["id", "category", "prompt"]
    return pd.DataFrame(train, columns=columns), pd.DataFrame(test, columns=columns)


def _check_columns(frame: pd.DataFrame, language: str | None) -> None:
    needed = ["id", "conversations", "label"] + ["langdetect"] * (language is not None)
    missing = [column for column in needed if column not in frame.columns]
    if missing:
        raise ModulesError(
            f"frame should have Infinity-Instruct's columns {needed}; it lacks {missing}. Read "
            "them too, or rename yours."
        )


def _category_of_label(categories: Mapping[str, Collection[str]]) -> dict[str, str]:
    found: dict[str, str] = {}
    for category, labels in categories.items():
        if isinstance(labels, str):
            raise ModulesError(
                f"The labels of {category!r} should be a list of texts; got {labels!r}. Put it in "
                "a list."
            )
        for label in labels:
            if found.setdefault(label, category) != category:
                raise ModulesError(
                    f"An ability label should stand in one category; {label!r} stands in "
                    f"{found[label]!r} and {category!r}. Drop it from one."
                )
    return found


def _labelled_prompts(
    frame: pd.DataFrame, language: str | None
) -> Iterator[tuple[str, str, list[str]]]:
    """The id, prompt and ability labels of each row that has a prompt."""
    if language is not None:
        frame = frame.loc[frame["langdetect"] == language]
    rows = zip(frame["id"], frame["conversations"], frame["label"], strict=True)
    for key, turns, label in rows:
        prompt = _first_human_turn(turns)
        if prompt and isinstance(label, dict):
            labels = [one for one in _items(label.get("ability_en")) if isinstance(one, str)]
            yield str(key), prompt, labels


def _first_human_turn(turns: Any) -> str | None:
    """The opening turn's text. Where a system prompt opens, what follows it is another request."""
    first = next(iter(_items(turns)), None)
    if isinstance(first, dict) and first.get("from") == "human":
        value = first.get("value")
        return value if isinstance(value, str) and value.strip() and _is_unicode(value) else None
    return None


def _is_unicode(text: str) -> bool:
    """Whether it holds no half of a surrogate pair, which pandas refuses."""
    return not any("\ud800" <= character <= "\udfff" for character in text)


def _items(value: Any) -> list[Any]:
    """What a list holds, which pandas gives as an array where it reads Parquet; None holds none."""
    return list(value) if isinstance(value, list | np.ndarray) else []


def _draw(seed: int, prompt: str) -> bytes:
    """A place in a random order that neither the rows' order nor the other rows change."""
    return hashlib.sha256(f"{seed}:{prompt}".encode()).digest()
