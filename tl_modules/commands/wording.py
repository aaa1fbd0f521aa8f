"""Rewrite the library's messages for the command line: options instead of Python arguments."""

import re
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

from tl_modules.commands.options import say
from tl_modules.runtime.call_warnings import is_own

_OTHER_NAMES = {
    "prompt": "--prompt-column",
    "category": "--category-column",
    "test_share": "--held-out",
    "device": "--discovery-device",
}
"""Options whose name differs from the name of their argument."""

_PARTS = re.compile(
    r"\b(?P<argument>[a-z_]+)=(?P<value>'[^']*'|\"[^\"]*\"|\.\.\.|\w+)"
    r"|(?P<quoted>(?<!\w)'[^']*'(?!\w))"
    r"|(?P<name>\b[a-z]+(?:_[a-z]+)+\b)(?!\()"
    r"|^(?P<subject>[a-z]+)(?= should )"
)


def in_options(message: str, help_text: str) -> str:
    """Replace the arguments that a message names by the options of a command.

    Args:
        message: The library's message.
        help_text: The command's help text, which contains all its options.

    Returns:
        The message; quoted text is unchanged.

    >>> in_options("Pass a smaller batch_size, or chat=True.", "--batch-size N  --chat")
    'Pass a smaller --batch-size, or --chat.'
    """
    options = set(re.findall(r"--[a-z][a-z-]+", help_text))

    def option(match: re.Match[str]) -> str:
        name = match["argument"] or match["name"] or match["subject"]
        if name is None:
            return match[0]
        option = _OTHER_NAMES.get(name, f"--{name.replace('_', '-')}")
        if option not in options:
            return match[0]
        value = (match["value"] or "").strip("'\"")
        return option if value in ("", "...", "True") else f"{option} {value}"

    return _PARTS.sub(option, message)


@contextmanager
def warnings_in_options(help_text: str) -> Iterator[None]:
    """Print each warning of this package once, in one line; other warnings appear as usual.

    Args:
        help_text: The command's help text, which contains all its options.
    """
    shown: set[str] = set()
    with warnings.catch_warnings():
        usual = warnings.showwarning

        def show(
            message: Warning | str,
            category: type[Warning],
            filename: str,
            lineno: int,
            file: TextIO | None = None,
            line: str | None = None,
        ) -> None:
            if not is_own(message):
                usual(message, category, filename, lineno, file, line)
                return
            # Python repeats a warning per place of origin; the command line shows each text once.
            text = in_options(str(message), help_text).replace("\n", " ")
            if text not in shown:
                shown.add(text)
                say(f"tl-modules: warning: {text}", sys.stderr)

        warnings.showwarning = show
        yield
