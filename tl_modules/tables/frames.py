"""Frames of samples as JSON, columns of text, and tables for Jupyter."""

import html
import itertools
import operator
import re
import unicodedata
from collections.abc import Callable, Iterable
from datetime import date, time, timedelta
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from tl_modules.errors import ModulesError
from tl_modules.saving.checked_json import listed

_DEEPEST = 90
"""How deep a sample's value may nest: files are read 100 deep, and hold the samples some way in."""
_LONGEST_INT = 10_000
"""Bits; Python writes no longer numbers as text."""
_PLAIN: dict[Callable[[Any], Any], tuple[type, ...]] = {
    str.__str__: (str,),  # enumerations too, and NumPy's strings
    bool: (bool, np.bool_),
    int: (int, np.integer),
    float: (float, np.floating),
}
"""What becomes of values of types that derive from JSON's, and of NumPy's."""

TEXT_ONLY = "tex2jax_ignore mathjax_ignore"
"""HTML classes that keep Jupyter from reading what stands between dollar signs as mathematics."""


# Characters that act on what stands beside them: a terminal's commands, other ends of lines than
# the line feed, and the beginnings and ends of text in another direction.
_ACTING = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")
_HALF = re.compile("[\ud800-\udfff]")
_JOINER = "\u200d"
_SKIN_TONES = range(0x1F3FB, 0x1F400)
_FLAG_LETTERS = range(0x1F1E6, 0x1F200)
_TAGS = range(0xE0020, 0xE0080)


def frame_to_json(frame: pd.DataFrame) -> dict[str, list[Any]]:
    """A frame as lists by column; pandas' missing values as None.

    Raises:
        ModulesError: As ``plain_frame`` raises.
    """
    frame = plain_frame(frame)
    columns = {str(name): frame[name].tolist() for name in frame.columns}
    return {
        name: [None if v is pd.NA or v is pd.NaT else v for v in values]
        for name, values in columns.items()
    }


def plain_frame(frame: pd.DataFrame) -> pd.DataFrame:
    """A frame whose columns can be saved as JSON and loaded again.

    NumPy's numbers in columns of objects become Python's, arrays and tuples lists, and dates and
    times text in ISO 8601, as ``isoformat`` writes it; periods become the text that pandas shows.

    Args:
        frame: The frame.

    Returns:
        The same frame, or a copy with other columns where some are changed.

    Raises:
        ModulesError: If a column holds what JSON cannot, its name half of a character, or two have
            one name.

    >>> plain_frame(pd.DataFrame({"asked": [pd.Timestamp("2024-01-31")]}))["asked"].tolist()
    ['2024-01-31T00:00:00']
    """
    _check_names(frame)
    changed = {}
    for name in frame.columns:
        column = frame[name]
        if _is_plain_type(column.dtype):
            continue
        values = column.tolist()
        try:
            plain = [_plain(value) for value in values]
        except (TypeError, RecursionError) as error:
            raise ModulesError(
                f"The samples' column {name!r} holds values that cannot be saved as JSON "
                f"({error}). Drop the column, or turn its values into text first."
            ) from error
        if any(new is not old for new, old in zip(plain, values, strict=True)):
            texts = all(value is None or isinstance(value, str) for value in plain)
            changed[name] = json_column(plain) if texts else pd.Series(plain, dtype=object)
    if changed:
        frame = frame.copy()
    for name, values in changed.items():
        frame[name] = pd.Series(values).set_axis(frame.index)
    return frame


def _is_plain_type(dtype: Any) -> bool:
    """Whether JSON holds all values of a column of this type."""
    if isinstance(dtype, np.dtype):
        return dtype.kind in "biu" or (dtype.kind == "f" and dtype.itemsize <= 8)
    return isinstance(dtype, pd.StringDtype)


def _check_names(frame: pd.DataFrame) -> None:
    """Refuse names of columns that a file does not keep apart, or cannot hold."""
    names = [str(name) for name in frame.columns]
    if len(set(names)) < len(names):
        raise ModulesError(
            f"The samples' columns should have different names; got {names}. Rename one."
        )
    for name in names:
        if _HALF.search(name):
            raise ModulesError(
                f"The samples' columns should have whole text as names; {name!r} holds half of a "
                "character. Rename it."
            )


def _plain(value: Any, deep: int = 0) -> Any:
    """A value as JSON holds it; the same object where it does already.

    Raises:
        TypeError: If JSON has no such value, or no file could be read with it.
    """
    kind = type(value)
    if value is None or kind in (str, float, bool):
        return value
    if value is pd.NA or value is pd.NaT:
        return None
    if deep > _DEEPEST:
        raise TypeError(f"lists and objects stand in each other more than {_DEEPEST} deep")
    if isinstance(value, list | tuple | dict | np.ndarray):
        return _plain_items(value, deep + 1)
    if isinstance(value, date | time | timedelta | np.datetime64 | np.timedelta64 | pd.Period):
        return _iso(value)
    if kind is int and value.bit_length() < _LONGEST_INT:
        return value
    for plain, kinds in _PLAIN.items():
        if isinstance(value, kinds) and kind is not int:
            return plain(value)
    raise TypeError(f"a {kind.__name__} that is no number, text, list or object of JSON's")


def _iso(value: Any) -> str | None:
    """A date, a time, a duration or a period as text."""
    if isinstance(value, np.datetime64):
        value = pd.Timestamp(value)
    if isinstance(value, timedelta | np.timedelta64):
        value = pd.Timedelta(value)
    if value is pd.NaT:
        return None
    return str(value) if isinstance(value, pd.Period) else value.isoformat()


def _plain_items(value: Any, deep: int) -> Any:
    """A list, a tuple, an array or a dict as JSON holds it."""
    if not isinstance(value, dict):
        items = [_plain(item, deep) for item in value]
        same = isinstance(value, list) and all(map(operator.is_, items, value))
        return value if same else items
    odd = next((key for key in value if not isinstance(key, str)), None)
    if odd is not None:  # JSON would make a text of it without a word
        raise TypeError(f"an object's key {odd!r:.80} is no text")
    plain = {key: _plain(item, deep) for key, item in value.items()}
    return value if all(plain[key] is item for key, item in value.items()) else plain


def frame_from_json(columns: dict[str, list[Any]]) -> pd.DataFrame:
    """The frame that ``frame_to_json`` described.

    Raises:
        TypeError: If a column is no list.
        ValueError: If the columns have different lengths.
    """
    return pd.DataFrame({name: json_column(listed(values)) for name, values in columns.items()})


def n_rows(columns: dict[str, list[Any]]) -> int:
    """How many rows the frame that ``frame_to_json`` described has."""
    return len(next(iter(columns.values()), []))


def json_column(values: list[Any]) -> Any:
    """A column of what JSON holds, for a frame.

    pandas' own text has no halves of characters; and it would make floats of whole numbers beside
    a missing one, so that 1 would read 1.0.

    >>> json_column([1, None]).tolist()
    [1, <NA>]
    """
    if any(isinstance(value, str) and _HALF.search(value) for value in values):
        return pd.Series(values, dtype=object)
    kinds = {type(value) for value in values}
    if kinds == {int, type(None)} and all(-(2**63) <= value < 2**63 for value in values if value):
        return pd.array(values, dtype="Int64")
    return values


def check_whole(texts: Iterable[str], what: str) -> None:
    """Refuse texts with halves of characters, which no tokenizer reads and no table holds.

    Args:
        texts: The texts.
        what: What one is called in the message.

    Raises:
        ModulesError: If there is one.
    """
    for row, text in enumerate(texts):
        half = _HALF.search(text)
        if half:
            raise ModulesError(
                f"Every {what} should be whole text; {what} {row} holds half of a character, "
                f"{half.group()!r}. Replace it: "
                "text.encode('utf-16', 'surrogatepass').decode('utf-16', 'replace')."
            )


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
    whole = [_characters(value) if isinstance(value, str) else None for value in values]
    return pd.Series(whole, dtype="str")


def visible(said: str) -> str:
    r"""A text from outside, with the characters that act on what stands beside it spelled out.

    >>> print(visible("\x1b[31m red \u202e der"))
    \x1b[31m red \u202e der
    """
    whole = said.replace("\r\n", "\n")
    return _ACTING.sub(lambda found: found.group().encode("unicode_escape").decode(), whole)


def _characters(said: str) -> str:
    """A text without halves of characters."""
    return said.encode("utf-8", "replace").decode()


def shortened(said: str, longest: int) -> str:
    r"""A text from outside, cut to at most so many characters, between letters as readers see them.

    >>> shortened("cafe\u0301s", 5)
    'caf…'
    """
    if len(said) <= longest:
        return said
    end = longest - 1
    while end > 0 and _joins(said, end):
        end -= 1
    return f"{said[: end or longest - 1]}…"


def _joins(said: str, at: int) -> bool:
    """Whether a character belongs to what a reader sees as one letter or emoji with those before.

    The most frequent of Unicode's rules (UAX 29), not all.
    """
    number = ord(said[at])
    if number in _FLAG_LETTERS:  # two make a flag
        letters = itertools.takewhile(lambda c: ord(c) in _FLAG_LETTERS, reversed(said[:at]))
        return sum(1 for _ in letters) % 2 == 1
    return (
        unicodedata.category(said[at]).startswith("M")  # marks, and variation selectors
        or _JOINER in said[at - 1 : at + 1]
        or number in _SKIN_TONES
        or number in _TAGS
    )


def isolated(said: str) -> str:
    """A name; if any of it runs from right to left, held apart, so that its neighbours stay put."""
    turned = any(unicodedata.bidirectional(character) in ("R", "AL") for character in said)
    return f"\u2068{said}\u2069" if turned else said


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
    return shortened(_characters(visible(str(value))), widest)


def _number(value: float) -> str:
    """Three digits, or all before the point: a small p-value is not 0.000."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
