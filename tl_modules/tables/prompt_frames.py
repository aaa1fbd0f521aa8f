"""Prompts as a frame, and their categories."""

from collections.abc import Iterable

import numpy as np
import pandas as pd
from jaxtyping import Bool, Shaped

from tl_modules.tables.frames import plain_frame
from tl_modules.tables.labels import (
    apart,
    checked_labels,
    column_hint,
    label_text,
    quoted,
    warn_spelling,
)
from tl_modules.tables.prompt_tables import check_texts, prompt_table


def prompt_frame(prompts: object, name: str = "prompts") -> pd.DataFrame:
    """The prompts as a frame with a column ``prompt``, numbered from 0.

    Args:
        prompts: Whatever ``prompt_table`` takes; other columns, such as ``category``, stay.
        name: What messages call them.

    Returns:
        A new frame, with columns that can be saved (see ``plain_frame``).

    Raises:
        ModulesError: If there is no prompt, one is no string, or a column cannot be saved.
    """
    frame = prompt_table(prompts, name)
    check_texts(frame["prompt"].tolist(), name)
    return plain_frame(frame)


def categories_of(frame: pd.DataFrame) -> Shaped[np.ndarray, " prompts"]:
    """Each prompt's category, ``"all"`` where there is none.

    Args:
        frame: What ``prompt_frame`` returned.

    Returns:
        Texts, one a prompt.

    Raises:
        ModulesError: If only some prompts have one that is not blank, or one is no whole text.
    """
    if "category" not in frame.columns:
        return np.full(len(frame), "all", dtype=object)
    return np.array(checked_labels(frame["category"]), dtype=object)


def labelled(frame: pd.DataFrame, *others: Iterable[object]) -> pd.DataFrame:
    """The prompts with their categories as texts, if they have any; odd spelling is warned of.

    Args:
        frame: What ``prompt_frame`` returned.
        others: Columns ``category`` that the prompts' is compared with.

    Returns:
        A frame whose ``category`` is as ``categories_of`` returns it.

    Raises:
        ModulesError: As ``categories_of`` raises.
    """
    own = [frame["category"]] if "category" in frame.columns else []
    found = frame.assign(category=categories_of(frame)) if own else frame
    warn_spelling(*own, *others)
    return found


def is_category(
    categories: Shaped[np.ndarray, " prompts"], name: str
) -> Bool[np.ndarray, " prompts"]:
    """Which prompts are of a category. Not by ``==``: NumPy drops zero bytes at a text's end."""
    return np.array([category == name for category in categories], dtype=bool)


def has_concept(frame: pd.DataFrame, concept: str) -> Bool[np.ndarray, " prompts"]:
    """Which prompts are of the category that a concept is told by."""
    return is_category(categories_of(frame), label_text(concept) or "")


def categories_said(frame: pd.DataFrame, concept: str) -> str:
    """What a refusal says of a frame that lacks a concept: its categories, and those alike."""
    if "category" not in frame.columns:
        return f"It has no categories. {column_hint(list(frame.columns))}."
    found = categories_of(frame).tolist()
    return f"Its categories are {quoted(found)}.{apart([str(concept)], found)}"
