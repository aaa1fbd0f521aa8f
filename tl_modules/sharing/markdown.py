"""Text from prompts and names inside Markdown: it stays text, in one line."""

import re

import numpy as np
import pandas as pd

from tl_modules.tables.text import visible

_ENTITIES = {ord(mark): f"&#{ord(mark)};" for mark in "&<>|\\`*_[]~$"}


def text(value: object) -> str:
    r"""A value as Markdown that shows it as it is, and in one line.

    Marks become character references, which no Markdown reader takes for structure.

    >>> text("a|b\n<i>")
    'a&#124;b &#60;i&#62;'
    """
    line = visible(" ".join(str(value).split())).translate(_ENTITIES)
    return re.sub(r"(?<=www)\.|:(?=//)", lambda dot: f"&#{ord(dot.group())};", line)  # no links


def table(frame: pd.DataFrame) -> str:
    """A frame as a Markdown table: numbers to the right, missing values empty.

    >>> print(table(pd.DataFrame({"n_units": [1200], "share": [0.5]})))
    | n units | share |
    | ---: | ---: |
    | 1,200 | 0.500 |
    """
    numeric = [pd.api.types.is_numeric_dtype(frame[name]) for name in frame]
    rows = [
        [text(str(name).replace("_", " ")) for name in frame],
        ["---:" if right else "---" for right in numeric],
        *([_cell(value) for value in row] for row in frame.itertuples(index=False)),
    ]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _cell(value: object) -> str:
    if isinstance(value, bool | np.bool_):
        return "yes" if value else "no"
    if value is None or value != value:  # NaN: a category or a number that is missing
        return ""
    if isinstance(value, int | np.integer):
        return f"{value:,}"
    return f"{value:,.3f}" if isinstance(value, float | np.floating) else text(value)
