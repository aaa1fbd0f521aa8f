"""Rows of a text file with a delimiter between its columns: CSV or TSV."""

import csv
import io
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tl_modules.errors import ModulesError
from tl_modules.tables.prompt_tables import check_column


def delimited_rows(
    name: str, text: str, prompt: str, delimiter: str, remedy: str
) -> list[tuple[str, dict[str, str | None]]]:
    """The rows of a CSV or TSV file, whose first line has the columns' names.

    Args:
        name: The file's name in messages.
        text: Its content.
        prompt: The column of the prompts.
        delimiter: ``","`` or a tab.
        remedy: What the message of a missing column ends in.

    Returns:
        Each row's place in messages ("Line 3"), and its cells by column; None for an empty cell.

    Raises:
        ModulesError: If the column is missing, or a row has another number of cells.
    """
    _check_delimiter(name, text, prompt, delimiter)
    # pandas' reader shifts columns if a row has an extra cell, and guesses types.
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    with _long_fields(len(text)):
        records = list(_cells(name, reader, "TSV" if delimiter == "\t" else "CSV"))
    while records and not any(records[-1][1]):  # rows of empty cells; white space is a text
        records.pop()
    first, *others = records or [("", [])]
    n_given = len(first[1])
    header = _without_empty_end([cell.strip() for cell in first[1]])
    if records:
        check_column(header, name, prompt, remedy)
    rows: list[tuple[str, dict[str, str | None]]] = []
    for place, given in others:
        cells = given[: len(header)] + _without_empty_end(given[len(header) : n_given])
        cells += given[n_given:]
        if len(cells) != len(header):
            raise ModulesError(
                f"{place} of {name} should have {len(header)} cells, as the first line; got "
                f"{len(cells)}. Put quotes around a text that contains the delimiter."
            )
        rows.append((place, dict(zip(header, (cell or None for cell in cells), strict=True))))
    return rows


_DELIMITERS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "vertical bars"}


def _check_delimiter(name: str, text: str, prompt: str, delimiter: str) -> None:
    """Raise for a table whose first line has the prompts' column only with another delimiter."""
    first = text.lstrip("\r\n").partition("\n")[0]

    def has_prompt(mark: str) -> bool:
        return prompt in [cell.strip().strip('"').strip() for cell in first.split(mark)]

    fitting = [mark for mark in _DELIMITERS if mark in first and has_prompt(mark)]
    if fitting and not has_prompt(delimiter):
        kind = "tab" if fitting[0] == "\t" else fitting[0]
        raise ModulesError(
            f"{name} should have {_DELIMITERS[delimiter]} between its columns, as its ending says; "
            f"its first line has {_DELIMITERS[fitting[0]]}. Pass the frame that "
            f"pandas.read_csv(path, sep={fitting[0]!r}, dtype=str, keep_default_na=False) returns, "
            f"or replace each {kind} that separates columns."
        )


def _without_empty_end(cells: list[str]) -> list[str]:
    """Drop the empty cells at the end of a line."""
    n_filled = max((place for place, cell in enumerate(cells, 1) if cell.strip()), default=0)
    return cells[:n_filled]


_FIELD_SIZE = threading.Lock()


@contextmanager
def _long_fields(longest: int) -> Iterator[None]:
    """Let the csv module read fields of this length; its limit is global to the process."""
    with _FIELD_SIZE:
        before = csv.field_size_limit()
        csv.field_size_limit(max(before, longest))
        try:
            yield
        finally:
            csv.field_size_limit(before)


def _cells(name: str, reader: Any, kind: str) -> Iterator[tuple[str, list[str]]]:
    """Yield each record with the line that it starts on, without blank lines."""
    start = reader.line_num + 1
    try:
        for cells in reader:
            if cells:
                yield f"Line {start}", cells
            start = reader.line_num + 1
    except csv.Error as error:
        raise ModulesError(
            f"The record at line {start} of {name} is not valid {kind}: {error}. A text that "
            "starts with a quotation mark should end with one, and quotation marks inside it "
            'should be doubled: """Hi"" she said". Correct it, or use JSON Lines.'
        ) from error
