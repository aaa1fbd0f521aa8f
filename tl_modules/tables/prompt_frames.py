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
        prompts: Prompts as ``prompt_table`` takes them. Other columns, such as ``category``, stay.
        name: The argument's name in messages.

    Returns:
        A new frame whose columns can be saved (see ``plain_frame``).

    Raises:
        ModulesError: If there is no prompt, a prompt is not a string, or a column cannot be saved.
    """
    frame = prompt_table(prompts, name)
    check_texts(frame["prompt"].tolist(), name)
    return plain_frame(frame)


def categories_of(frame: pd.DataFrame) -> Shaped[np.ndarray, " prompts"]:
    """Each prompt's category; ``"all"`` for every prompt if the frame has no categories.

    Args:
        frame: What ``prompt_frame`` returned.

    Returns:
        One text per prompt.

    Raises:
        ModulesError: If some prompts have no category, or a category is not valid text.
    """
    if "category" not in frame.columns:
        return np.full(len(frame), "all", dtype=object)
    return np.array(checked_labels(frame["category"]), dtype=object)


def labelled(frame: pd.DataFrame, *others: Iterable[object]) -> pd.DataFrame:
    """Turn the prompts' categories, if they have any, into texts, and warn of odd spelling.

    Args:
        frame: What ``prompt_frame`` returned.
        others: Columns ``category`` with which the prompts' column will be compared.

    Returns:
        A frame whose column ``category`` holds what ``categories_of`` returns.

    Raises:
        ModulesError: As ``categories_of`` raises.
    """
    columns = [frame["category"]] if "category" in frame.columns else []
    result = frame.assign(category=categories_of(frame)) if columns else frame
    warn_spelling(*columns, *others)
    return result


def is_category(
    categories: Shaped[np.ndarray, " prompts"], name: str
) -> Bool[np.ndarray, " prompts"]:
    """Which prompts are of a category."""
    # Not `categories == name`, since NumPy drops zero bytes at the end of a text.
    return np.array([category == name for category in categories], dtype=bool)


def has_concept(frame: pd.DataFrame, concept: str) -> Bool[np.ndarray, " prompts"]:
    """Which prompts are of the category with a concept's name."""
    return is_category(categories_of(frame), label_text(concept) or "")


def categories_said(frame: pd.DataFrame, concept: str) -> str:
    """Describe the categories of a frame that lacks a concept, for an error message."""
    if "category" not in frame.columns:
        return f"It has no categories. {column_hint(list(frame.columns))}."
    categories = categories_of(frame).tolist()
    return f"Its categories are {quoted(categories)}.{apart([str(concept)], categories)}"
