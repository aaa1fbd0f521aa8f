"""Categories as texts: which labels are equal, and which only look alike."""

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
    """A category as text, without surrounding space.

    Every comparison of categories uses this function.

    Args:
        value: A cell of a column ``category``.

    Returns:
        The text; None for a missing or blank value. 1.0 becomes ``"1"``, since pandas turns 1 into
        1.0 in a column with a missing value.

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
    """``label_text`` of each cell of a column ``category``."""
    return [label_text(value) for value in column]


def checked_labels(
    column: Iterable[object],
    what: str = "category",
    remedy: str = "Fill it in, drop the prompt, or drop the column.",
) -> list[str]:
    """Each prompt's category, or another label of it, as text.

    Args:
        column: A cell per prompt.
        what: What the column holds, in messages.
        remedy: What to do about a prompt without one.

    Raises:
        ModulesError: If a prompt has no label, or a label holds an unpaired surrogate.
    """
    texts = label_texts(column)
    for row, label in enumerate(texts):
        if label is None:
            raise ModulesError(
                f"Every prompt should have a {what}; prompt {row} has none. {remedy}"
            )
    labels = [label for label in texts if label is not None]
    check_whole(labels, what)
    return labels


def warn_spelling(*columns: Iterable[object]) -> None:
    """Warn of labels with surrounding space, and of labels of one column that look alike.

    Args:
        columns: The columns ``category`` that a call compares.
    """
    by_column = [list(dict.fromkeys(v for v in column if isinstance(v, str))) for column in columns]
    spaced = [label for labels in by_column for label in labels if label != label.strip()]
    if spaced:
        warn_user(
            f"Space around categories is ignored; there is some around {quoted(spaced)}. Strip "
            "it: frame['category'].str.strip().",
        )
    bare = [[label.strip() for label in labels] for labels in by_column]
    alike = [pair for labels in bare for pair in near_misses(labels, labels)]
    alike = list({frozenset(pair): pair for pair in alike}.values())
    if alike:
        warn_user(
            f"Categories that are spelt alike count as different ones: {_paired(alike)}. Use one "
            "spelling if they mean the same.",
        )


def near_misses(labels: Iterable[str], others: Iterable[str]) -> list[tuple[str, str]]:
    """Pairs of labels that differ only in spelling.

    Differences in spelling are capitals, spaces, hyphens, underscores, Unicode's forms of a letter,
    and forms of a number.

    Args:
        labels: The labels.
        others: The labels to compare with.

    Returns:
        Pairs of a label from ``labels`` and one from ``others``, each pair once.

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
    """A text that is equal for labels that differ only in spelling."""
    folded = unicodedata.normalize("NFKC", label).casefold().strip()
    try:
        number = float(folded)
    except ValueError:
        number = float("inf")
    if isfinite(number):
        return str(label_text(number))
    # Category Cf is of characters without a width, such as the joiners that web pages contain.
    return "".join(
        c for c in folded if not (c.isspace() or c in "-_" or unicodedata.category(c) == "Cf")
    )


def names_like_category(columns: Sequence[object]) -> list[str]:
    """Columns that may be meant as ``category``; empty if a column has that name."""
    if "category" in columns:
        return []
    return [name for name in columns if isinstance(name, str) and _key(name) in _OTHER_NAMES]


def column_hint(columns: Sequence[object]) -> str:
    """The remedy in an error message about a frame without a column ``category``.

    >>> column_hint(["prompt", "Category"])
    "Rename 'Category' to 'category', if it is meant"
    """
    meant = names_like_category(columns)
    if not meant:
        return "Add a column 'category'"
    return f"Rename {' or '.join(map(repr, meant))} to 'category', if it is meant"


def apart(names: Iterable[str], others: Iterable[str]) -> str:
    """A sentence about labels of two lists that are spelt alike; empty if there are none."""
    pairs = near_misses(names, others)
    return f" Spelt alike, but not the same: {_paired(pairs)}." if pairs else ""


def quoted(labels: Iterable[str]) -> str:
    """Labels in quotes for a message, each once and at most twelve.

    >>> quoted([])
    'none'
    """
    unique = list(dict.fromkeys(labels))
    rest = f" and {len(unique) - _MOST_SHOWN} more" if len(unique) > _MOST_SHOWN else ""
    return (", ".join(map(repr, unique[:_MOST_SHOWN])) or "none") + rest


def _paired(pairs: list[tuple[str, str]]) -> str:
    shown = ", ".join(f"{one!r} and {other!r}" for one, other in pairs[:_MOST_SHOWN])
    rest = f" and {len(pairs) - _MOST_SHOWN} more" if len(pairs) > _MOST_SHOWN else ""
    return shown + rest
