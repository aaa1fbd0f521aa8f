"""Untrusted text, made safe for a table, a page or a terminal."""

import re
import unicodedata
from collections.abc import Iterable
from typing import Any

import pandas as pd
import regex

from tl_modules.errors import ModulesError

# Characters that change how other text is shown: a terminal's control characters, line ends other
# than the line feed, and controls of the writing direction.
_ACTING = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")
HALF = re.compile("[\ud800-\udfff]")
_LETTER = regex.compile(r"\X")


def check_whole(texts: Iterable[str], what: str) -> None:
    """Refuse texts with unpaired surrogates, which tokenizers and pandas' text cannot hold.

    Args:
        texts: The texts.
        what: The name of one text in the message.

    Raises:
        ModulesError: If a text holds an unpaired surrogate.
    """
    for row, text in enumerate(texts):
        half = HALF.search(text)
        if half:
            raise ModulesError(
                f"Every {what} should be whole text; {what} {row} holds half of a character, "
                f"{half.group()!r}. Replace it: "
                "text.encode('utf-16', 'surrogatepass').decode('utf-16', 'replace')."
            )


def as_texts(column: Any) -> pd.Series:
    r"""A column's values as text of type object, which may hold unpaired surrogates.

    >>> as_texts(pd.Series(["\ud800", 7], dtype=object)).tolist()
    ['\ud800', '7']
    """
    return pd.Series([str(value) for value in column], index=column.index, dtype=object)


def text_column(values: Iterable[str | None]) -> pd.Series:
    """A column of pandas' text type, also if all texts are missing.

    Unpaired surrogates, which pandas' text cannot hold, are replaced.
    """
    whole = [without_halves(value) if isinstance(value, str) else None for value in values]
    return pd.Series(whole, dtype="str")


def visible(said: str) -> str:
    r"""Escape the characters of an untrusted text that change how other text is shown.

    >>> print(visible("\x1b[31m red \u202e der"))
    \x1b[31m red \u202e der
    """
    whole = said.replace("\r\n", "\n")
    return _ACTING.sub(lambda match: match.group().encode("unicode_escape").decode(), whole)


def without_halves(said: str) -> str:
    """Replace a text's unpaired surrogates by question marks."""
    return said.encode("utf-8", "replace").decode()


def shortened(said: str, longest: int) -> str:
    r"""Shorten a text to a number of characters, without cutting inside a letter or emoji.

    A letter is a grapheme cluster of Unicode (UAX 29), such as a flag or a syllable.

    >>> shortened("cafe\u0301s", 5)
    'caf…'
    """
    if len(said) <= longest:
        return said
    # The last of these letters goes on behind them, or leaves no place for the ellipsis.
    *_, last = (letter.start() for letter in _LETTER.finditer(said[:longest]))
    # A first letter longer than the limit has to be cut.
    return f"{said[: last or longest - 1]}…"


def isolated(said: str) -> str:
    """Isolate a name with right-to-left characters, so that they do not reorder the text around."""
    turned = any(unicodedata.bidirectional(character) in ("R", "AL") for character in said)
    return f"\u2068{said}\u2069" if turned else said
