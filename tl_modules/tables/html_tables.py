"""Tables for Jupyter."""

import html
from functools import partial
from typing import Any

import pandas as pd

from tl_modules.tables.text import shortened, visible, without_halves

TEXT_ONLY = "tex2jax_ignore mathjax_ignore"
"""HTML classes that keep Jupyter from reading what stands between dollar signs as mathematics."""


def html_table(title: str, *frames: pd.DataFrame, widest: int = 80) -> str:
    """Captioned tables for Jupyter, of as many rows and columns as pandas itself would show.

    Text from prompts and names stays text (see ``visible``). Colours are the page's. An index
    without a name is left out.

    Args:
        title: The caption.
        frames: The tables.
        widest: Characters of a text at most.

    Returns:
        HTML without scripts or styles.

    >>> "<script>" in html_table("<script>", pd.DataFrame({"prompt": ["<script>"]}))
    False
    """
    short = partial(_short_value, widest)
    tables = "".join(_html(frame.map(short).rename(columns=short, index=short)) for frame in frames)
    return f'<div class="{TEXT_ONLY}"><p><b>{html.escape(visible(title))}</b></p>{tables}</div>'


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
    if pd.api.types.is_scalar(value) and not isinstance(value, str):
        return value
    return shortened(without_halves(visible(str(value))), widest)


def _number(value: float) -> str:
    """Three digits, or all before the point: a small p-value is not 0.000."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
