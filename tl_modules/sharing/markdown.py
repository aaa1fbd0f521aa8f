"""Escape texts from prompts and names in Markdown, and write tables."""

import re

import numpy as np
import pandas as pd

from tl_modules.tables.text import visible

_ENTITIES = {ord(mark): f"&#{ord(mark)};" for mark in "&<>|\\`*_[]~$"}


def markdown_text(value: object) -> str:
    r"""Escape a value so that Markdown shows it unchanged, in one line.

    Marks become character references, which Markdown does not interpret as structure.

    >>> markdown_text("a|b\n<i>")
    'a&#124;b &#60;i&#62;'
    """
    line = visible(" ".join(str(value).split())).translate(_ENTITIES)
    # Some readers turn addresses into links without any mark.
    return re.sub(r"(?<=www)\.|:(?=//)", lambda match: f"&#{ord(match.group())};", line)


def markdown_table(frame: pd.DataFrame) -> str:
    """Write a frame as a Markdown table: numbers right-aligned, missing values empty.

    >>> print(markdown_table(pd.DataFrame({"n_units": [1200], "share": [0.5]})))
    | n units | share |
    | ---: | ---: |
    | 1,200 | 0.500 |
    """
    numeric = [pd.api.types.is_numeric_dtype(frame[name]) for name in frame]
    rows = [
        [markdown_text(str(name).replace("_", " ")) for name in frame],
        ["---:" if right else "---" for right in numeric],
        *([_cell(value) for value in row] for row in frame.itertuples(index=False)),
    ]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _cell(value: object) -> str:
    if isinstance(value, bool | np.bool_):
        return "yes" if value else "no"
    if value is None or value != value:  # only NaN, a missing value, differs from itself
        return ""
    if isinstance(value, int | np.integer):
        return f"{value:,}"
    return f"{value:,.3f}" if isinstance(value, float | np.floating) else markdown_text(value)
