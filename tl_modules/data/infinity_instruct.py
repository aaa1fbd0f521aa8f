"""Select the paper's prompts: seven categories of Infinity-Instruct, by their ability labels."""

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
"""The ability labels of each category, chosen by this project; the paper does not print its own."""


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
    """Select prompts of the paper's categories, to discover on and to hold out.

    As in arXiv 2603.17823, a row's ability labels determine its category, and a row that fits
    several categories is left out. The paper does not print its lists of labels; this project chose
    ``ABILITIES`` and did not try it on the whole dataset (docs/how-to/own-prompts.md says where the
    authors' lists are). The paper does not say whether it uses one language only.

    The selection depends on the texts and the seed alone, not on the order of the rows.

    Args:
        frame: Rows of BAAI/Infinity-Instruct, with the columns ``id``, ``conversations`` (turns
            ``{"from": "human", "value": ...}``), ``label`` (``{"ability_en": [...]}``) and
            ``langdetect``, as pandas reads them from Parquet files. The prompt is the first turn if
            a human wrote it; other rows, and rows without labels, are left out.
        n_train: The number of prompts per category to discover on; at least 1.
        n_test: The number of held-out prompts per category; at least 0.
        categories: The ability labels of each category; a label belongs to one category.
        language: The language, as ``langdetect`` names it; None for all languages.
        seed: Seeds the selection.

    Returns:
        The prompts to discover on, and the held-out prompts. Both frames have the columns ``id``,
        ``category`` and ``prompt``, sorted by category, and no text occurs twice.

    Raises:
        ModulesError: If the frame lacks a column, a label belongs to two categories, a number is
            out of range, or a category has too few prompts.
    """
    check_at_least("n_train", n_train, 1)
    check_at_least("n_test", n_test, 0)
    check_seed(seed)
    _check_columns(frame, language)
    category_of = _category_of_label(categories)
    # A text may occur in several rows with different labels, so it may fit several categories.
    fits: dict[str, set[str]] = defaultdict(set)
    ids: dict[str, str] = {}
    for key, prompt, labels in _labelled_prompts(frame, language):
        row_fits = {category_of[label] for label in labels if label in category_of}
        if row_fits:
            fits[prompt] |= row_fits
            ids[prompt] = min(ids.get(prompt, key), key)
    train, test = [], []
    for category in categories:
        prompts = sorted(
            (prompt for prompt, fitting in fits.items() if fitting == {category}),
            key=lambda prompt: _draw(seed, prompt),
        )
        if len(prompts) < n_train + n_test:
            raise ModulesError(
                f"The category {category!r} should have at least n_train + n_test = "
                f"{n_train + n_test} prompts; got {len(prompts)} that fit no other category, by "
                f"the labels {sorted(categories[category])}. Pass more rows or more labels, or "
                "lower n_train or n_test."
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
            "these columns too, or rename yours."
        )


def _category_of_label(categories: Mapping[str, Collection[str]]) -> dict[str, str]:
    category_of: dict[str, str] = {}
    for category, labels in categories.items():
        if isinstance(labels, str):
            raise ModulesError(
                f"The labels of {category!r} should be a list of texts; got {labels!r}. Put it in "
                "a list."
            )
        for label in labels:
            if category_of.setdefault(label, category) != category:
                raise ModulesError(
                    f"An ability label should belong to one category; {label!r} belongs to "
                    f"{category_of[label]!r} and {category!r}. Drop it from one."
                )
    return category_of


def _labelled_prompts(
    frame: pd.DataFrame, language: str | None
) -> Iterator[tuple[str, str, list[str]]]:
    """Yield the id, prompt and ability labels of each row that has a prompt."""
    if language is not None:
        frame = frame.loc[frame["langdetect"] == language]
    rows = zip(frame["id"], frame["conversations"], frame["label"], strict=True)
    for key, turns, label in rows:
        prompt = _first_human_turn(turns)
        if prompt and isinstance(label, dict):
            labels = [one for one in _items(label.get("ability_en")) if isinstance(one, str)]
            yield str(key), prompt, labels


def _first_human_turn(turns: Any) -> str | None:
    """Return the first turn's text if a human wrote it.

    After a system prompt, the human's turn may make sense only together with that prompt.
    """
    first = next(iter(_items(turns)), None)
    if isinstance(first, dict) and first.get("from") == "human":
        value = first.get("value")
        return value if isinstance(value, str) and value.strip() and _is_unicode(value) else None
    return None


def _is_unicode(text: str) -> bool:
    """Whether a text holds no lone surrogate, which pandas cannot store."""
    return not any("\ud800" <= character <= "\udfff" for character in text)


def _items(value: Any) -> list[Any]:
    """Return the items of a list, or of the array that pandas makes of it; None has no items."""
    return list(value) if isinstance(value, list | np.ndarray) else []


def _draw(seed: int, prompt: str) -> bytes:
    """Return a sort key for a random order that depends on the prompt and the seed alone."""
    return hashlib.sha256(f"{seed}:{prompt}".encode()).digest()
