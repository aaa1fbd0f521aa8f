"""Frames of samples as JSON, columns of text, and tables for Jupyter."""

import html
import json
from collections.abc import Iterable
from functools import partial
from typing import Any

import pandas as pd

from tl_modules.errors import ModulesError

TEXT_ONLY = "tex2jax_ignore mathjax_ignore"
"""HTML classes that keep Jupyter from reading what stands between dollar signs as mathematics."""


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


def text_column(values: Iterable[str | None]) -> pd.Series:
    """Texts, some or all of them missing: pandas makes a column without any text one of objects.

    Halves of characters, which its text cannot hold, are replaced.
    """
    whole = [
        value.encode("utf-8", "replace").decode() if isinstance(value, str) else None
        for value in values
    ]
    return pd.Series(whole, dtype="str")


def shortened(said: str, longest: int) -> str:
    """A text from outside, cut to so many characters."""
    return said if len(said) <= longest else f"{said[: longest - 1]}…"


def html_table(title: str, *frames: pd.DataFrame, widest: int = 80) -> str:
    """Captioned tables for Jupyter, of as many rows and columns as pandas itself would show.

    Text from prompts and names stays text. Colours are the page's. An index without a name is left
    out.

    Args:
        title: The caption.
        frames: The tables.
        widest: Characters of a text at most.

    Returns:
        HTML without scripts or styles.

    >>> "<script>" in html_table("<script>", pd.DataFrame({"prompt": ["<script>"]}))
    False
    """
    tables = "".join(_html(frame.map(partial(_short_value, widest))) for frame in frames)
    return f'<div class="{TEXT_ONLY}"><p><b>{html.escape(title)}</b></p>{tables}</div>'


def _html(frame: pd.DataFrame) -> str:
    most = pd.get_option("display.max_rows")
    hidden = bool(most) and len(frame) > most
    return frame.to_html(
        index=frame.index.names != [None],
        escape=True,
        float_format=_number,
        max_rows=pd.get_option("display.min_rows") if hidden else None,
        max_cols=pd.get_option("display.max_columns"),
        show_dimensions=hidden,
    )


def _short_value(widest: int, value: Any) -> Any:
    """The beginning of a text, or of a list as text; a number as it is."""
    text = str(value) if isinstance(value, str) or not pd.api.types.is_scalar(value) else ""
    return shortened(text, widest) if len(text) > widest else value


def _number(value: float) -> str:
    """Three digits, or all before the point: a small p-value is not 0.000."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
