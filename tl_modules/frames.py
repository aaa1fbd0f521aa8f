"""Frames of samples as JSON, and as HTML for Jupyter."""

import html
import json
from typing import Any

import pandas as pd

from tl_modules.errors import ModulesError


def frame_to_json(frame: pd.DataFrame) -> dict[str, list[Any]]:
    """A frame as lists by column.

    Raises:
        ModulesError: If a column holds what JSON cannot, or two have one name.
    """
    columns: dict[str, list[Any]] = {}
    names = [str(name) for name in frame.columns]
    if len(set(names)) < len(names):
        raise ModulesError(
            f"The samples' columns should have different names; got {names}. Rename one."
        )
    for name in frame.columns:
        values = frame[name].tolist()
        try:
            json.dumps(values)
        except (TypeError, ValueError) as error:
            raise ModulesError(
                f"The samples' column {name!r} holds values that cannot be saved as JSON "
                f"({error}). Drop it or turn it into text first."
            ) from error
        columns[str(name)] = values
    return columns


def frame_from_json(columns: dict[str, list[Any]]) -> pd.DataFrame:
    """The frame that ``frame_to_json`` described."""
    return pd.DataFrame({str(name): list(values) for name, values in columns.items()})


def as_texts(column: Any) -> pd.Series:
    r"""A column's values as text, whatever they hold: pandas' own text has no unpaired surrogates.

    >>> as_texts(pd.Series(["\ud800", 7], dtype=object)).tolist()
    ['\ud800', '7']
    """
    return pd.Series([str(value) for value in column], index=column.index, dtype=object)


def html_table(title: str, frame: pd.DataFrame) -> str:
    """A captioned table; text from prompts and names stays text.

    >>> "<script>" in html_table("<script>", pd.DataFrame({"prompt": ["<script>"]}))
    False
    """
    table = frame.to_html(index=False, escape=True, float_format=lambda value: f"{value:.3f}")
    return f"<p><b>{html.escape(title)}</b></p>{table}"
