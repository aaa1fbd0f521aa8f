"""HTML tables for Jupyter."""

import html
from functools import partial
from typing import Any

import pandas as pd

from tl_modules.tables.text import shortened, visible, without_halves

TEXT_ONLY = "tex2jax_ignore mathjax_ignore"
"""HTML classes that keep Jupyter from showing text between dollar signs as mathematics."""


def html_table(title: str, *frames: pd.DataFrame, widest: int = 80) -> str:
    """Captioned tables for Jupyter, with as many rows and columns as pandas would show.

    Text from prompts and names is escaped (see ``visible``). Colours are those of the page. An
    index without a name is left out.

    Args:
        title: The caption.
        frames: The tables.
        widest: Largest number of characters of a text.

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
    """The beginning of a text, or of a list as text; a number is returned unchanged."""
    if pd.api.types.is_scalar(value) and not isinstance(value, str):
        return value
    return shortened(without_halves(visible(str(value))), widest)


def _number(value: float) -> str:
    """A number with three significant digits, so that a small p-value is not shown as 0.000.

    A number of 1000 or more is shown with all digits before the point.
    """
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
