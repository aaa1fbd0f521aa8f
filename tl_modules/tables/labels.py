"""Categories as texts: which labels are the same one, and which only look alike."""

import unicodedata
from collections.abc import Iterable, Sequence
from math import isfinite

import numpy as np
import pandas as pd

from tl_modules.errors import ModulesError
from tl_modules.runtime.call_warnings import warn_user
from tl_modules.tables.text import check_whole

_MOST_SHOWN = 12
_OTHER_NAMES = ("category", "categories", "label", "labels", "class", "topic")


def label_text(value: object) -> str | None:
    """A category as text, without space around it.

    Every comparison of categories goes through here.

    Args:
        value: A cell of a column ``category``.

    Returns:
        The text; None for a missing or blank value. A whole number is written as one: beside a
        missing value pandas keeps 1 as 1.0.

    >>> label_text(1.0), label_text("math "), label_text(float("nan"))
    ('1', 'math', None)
    """
    if isinstance(value, str):
        return value.strip() or None
    if value is None or value is pd.NA or value is pd.NaT:
        return None
    if isinstance(value, float | np.floating) and np.isnan(value):
        return None
    if isinstance(value, float | np.floating) and float(value).is_integer():
        return str(int(value))
    return str(value).strip() or None


def label_texts(column: Iterable[object]) -> list[str | None]:
    """Each cell of a column ``category`` as ``label_text`` gives it."""
    return [label_text(value) for value in column]


def checked_labels(column: Iterable[object]) -> list[str]:
    """Each prompt's category as text.

    Raises:
        ModulesError: If a prompt has none, or one is no whole text.
    """
    texts = label_texts(column)
    for row, label in enumerate(texts):
        if label is None:
            raise ModulesError(
                f"Every prompt should have a category; prompt {row} has none. Fill it in, drop "
                "the prompt, or drop the column."
            )
    found = [label for label in texts if label is not None]
    check_whole(found, "category")
    return found


def warn_spelling(*columns: Iterable[object]) -> None:
    """Warn of labels that have space around them, or that look like another of the same column.

    Args:
        columns: Columns ``category`` that one call compares.
    """
    each = [list(dict.fromkeys(v for v in column if isinstance(v, str))) for column in columns]
    spaced = [label for labels in each for label in labels if label != label.strip()]
    if spaced:
        warn_user(
            f"Space around categories is ignored; there is some around {quoted(spaced)}. Strip "
            "it: frame['category'].str.strip().",
        )
    bare = [[label.strip() for label in labels] for labels in each]
    alike = [pair for labels in bare for pair in near_misses(labels, labels)]
    alike = list({frozenset(pair): pair for pair in alike}.values())
    if alike:
        warn_user(
            f"Categories that are spelt alike count as different ones: {_paired(alike)}. Use one "
            "spelling if they are the same.",
        )


def near_misses(labels: Iterable[str], others: Iterable[str]) -> list[tuple[str, str]]:
    """Labels that another one differs from only in spelling.

    That is in capitals, in spaces, hyphens and underscores, in how Unicode spells a letter, or in
    how a number is written.

    Args:
        labels: Some labels.
        others: The labels that they are compared with.

    Returns:
        Each pair once, from ``labels`` and from ``others``.

    >>> near_misses(["math", "facts", "1"], ["Math", "facts", "1.0"])
    [('math', 'Math'), ('1', '1.0')]
    """
    by_key: dict[str, list[str]] = {}
    for label in dict.fromkeys(others):
        by_key.setdefault(_key(label), []).append(label)
    pairs: dict[frozenset[str], tuple[str, str]] = {}
    for label in dict.fromkeys(labels):
        for other in by_key.get(_key(label), []):
            if other != label:
                pairs.setdefault(frozenset((label, other)), (label, other))
    return list(pairs.values())


def _key(label: str) -> str:
    """What labels that differ only in spelling have in common."""
    folded = unicodedata.normalize("NFKC", label).casefold().strip()
    try:
        number = float(folded)
    except ValueError:
        number = float("inf")
    if isfinite(number):
        return str(label_text(number))
    # Cf: characters without a width, such as the joiners that web pages leave behind.
    return "".join(
        c for c in folded if not (c.isspace() or c in "-_" or unicodedata.category(c) == "Cf")
    )


def names_like_category(columns: Sequence[object]) -> list[str]:
    """The columns that may be meant where none is called ``category``."""
    if "category" in columns:
        return []
    return [name for name in columns if isinstance(name, str) and _key(name) in _OTHER_NAMES]


def column_hint(columns: Sequence[object]) -> str:
    """What to say where a frame has no column ``category``: which one may be meant, if any.

    >>> column_hint(["prompt", "Category"])
    "Rename 'Category' to 'category', if it is meant"
    """
    meant = names_like_category(columns)
    if not meant:
        return "Add a column 'category'"
    return f"Rename {' or '.join(map(repr, meant))} to 'category', if it is meant"


def apart(names: Iterable[str], others: Iterable[str]) -> str:
    """A sentence that names the labels of two lists that are spelt alike; nothing if none are."""
    pairs = near_misses(names, others)
    return f" Spelt alike, but not the same: {_paired(pairs)}." if pairs else ""


def quoted(labels: Iterable[str]) -> str:
    """Labels for a message, each once.

    >>> quoted([])
    'none'
    """
    each = list(dict.fromkeys(labels))
    rest = f" and {len(each) - _MOST_SHOWN} more" if len(each) > _MOST_SHOWN else ""
    return (", ".join(map(repr, each[:_MOST_SHOWN])) or "none") + rest


def _paired(pairs: list[tuple[str, str]]) -> str:
    shown = ", ".join(f"{one!r} and {other!r}" for one, other in pairs[:_MOST_SHOWN])
    rest = f" and {len(pairs) - _MOST_SHOWN} more" if len(pairs) > _MOST_SHOWN else ""
    return shown + rest
