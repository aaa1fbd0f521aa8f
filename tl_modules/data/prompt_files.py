"""Read a user's prompts from a file, a pandas frame or a Hugging Face dataset."""

import gzip
import io
import json
import zlib
from collections.abc import Callable, Iterator
from os import PathLike
from pathlib import Path
from typing import Any

import pandas as pd

from tl_modules.data.delimited import delimited_rows
from tl_modules.errors import ModulesError, shown
from tl_modules.runtime.arguments import checked
from tl_modules.saving.checked_json import PARSE_ERRORS, parse_json
from tl_modules.saving.files import checked_path
from tl_modules.tables.frames import json_column
from tl_modules.tables.labels import quoted
from tl_modules.tables.prompt_tables import check_column, prompt_table

Row = tuple[str, Any]
"""A row's name in messages ("Line 3"), and its content."""

_MOST_TIMES = 100
"""A file is rejected if its unpacked content, or its table, is more than this many times as large
as the content that it holds."""
_SMALL = 10_000_000
"""The number of bytes, or cells, up to which no file is rejected."""


@checked
def read_prompts(
    source: Any, *, prompt: str = "prompt", category: str = "category"
) -> pd.DataFrame:
    """Read and validate prompts from a file, a pandas frame or a Hugging Face dataset.

    Args:
        source: The path of a JSON Lines (``.jsonl``, ``.ndjson``), JSON (``.json``, a list of
            objects, or JSON Lines), CSV (``.csv``), TSV (``.tsv``) or Parquet (``.parquet``) file.
            Text files are in UTF-8 and may be gzipped (``.gz`` at the end); the case of an ending
            does not matter. ``source`` can also be a pandas frame, one split of a Hugging Face
            ``datasets`` object, a mapping of columns, or a list of strings.
        prompt: The column of the prompts.
        category: The column of the categories. The default column may be missing; another may not.

    Returns:
        A new frame with one row per prompt: ``prompt``, ``category`` if there is one, and all other
        columns unchanged. All columns of a CSV or TSV file are texts ("007" stays "007", "NA" stays
        "NA"), and an empty cell is a missing value. White space around the names in the first line
        is stripped, and empty rows and columns at the end are dropped, because spreadsheets leave
        them.

    Raises:
        ModulesError: If the source cannot be read, is empty or lacks a column, or a prompt is empty
            or no text; the message names the line (from 1) or the row (from 0).

    >>> read_prompts(pd.DataFrame({"text": ["Name a prime."]}), prompt="text")
              prompt
    0  Name a prime.
    """
    if prompt == category:
        raise ModulesError(
            f"prompt and category should name different columns; both are {prompt!r}. Name "
            "another column for one of them."
        )
    if isinstance(source, str | PathLike):
        name, frame = repr(str(source)), _read_file(checked_path(source), prompt)
    else:
        name, frame = "source", _table("source", source, prompt)
    if not len(frame):
        raise ModulesError(f"{name} should hold at least one prompt; it is empty. Add prompts.")
    return _rename(name, frame, {prompt: "prompt", category: "category"})


def _rename(name: str, frame: pd.DataFrame, columns: dict[str, str]) -> pd.DataFrame:
    """Rename the columns to the names that the package uses."""
    for given, wanted in columns.items():
        if given == wanted:
            continue
        check_column(list(frame.columns), name, given, _NAME_IT)
        if wanted in frame.columns and wanted not in columns:  # a renamed column makes room
            raise ModulesError(
                f"{name} should have one column for the {wanted}; it has {given!r}, which you "
                f"named, and {wanted!r}. Drop or rename one."
            )
    return frame.rename(columns=columns)


_NAME_IT = "Pass the names of yours as prompt=... and category=...."


def _check_texts(name: str, rows: Iterator[Row] | list[Row], prompt: str, rule: str) -> None:
    for place, row in rows:
        text = row.get(prompt) if isinstance(row, dict) else None
        if not isinstance(text, str) or not text:
            raise ModulesError(
                f"{place} of {name} should {rule} a text {prompt!r}; got {repr(row)[:80]}. "
                "Correct or drop it."
            )


def _table(name: str, source: Any, prompt: str) -> pd.DataFrame:
    """Make a frame of a source that is no file, and validate its prompts."""
    frame = prompt_table(source, name, prompt, _NAME_IT)
    rows = ((f"Row {row}", {prompt: text}) for row, text in enumerate(frame[prompt].tolist()))
    _check_texts(name, rows, prompt, "have")
    return frame


def _read_file(path: Path, prompt: str) -> pd.DataFrame:
    name = repr(str(path))
    suffixes = [suffix.lower() for suffix in path.suffixes]
    suffix = "".join(suffixes[-1:])
    if suffix == ".parquet":
        return _table(name, _read_parquet(path), prompt)
    is_packed = suffix == ".gz"
    if is_packed:
        suffix = "".join(suffixes[-2:-1])
    if suffix not in _TEXT_FORMATS:
        raise ModulesError(
            f"A file of prompts should end in {', '.join(_TEXT_FORMATS)} or .parquet; got {name}. "
            "Convert it to one of these formats."
        )
    return _TEXT_FORMATS[suffix](name, _read_text(path, is_packed=is_packed), prompt)


def _read_text(path: Path, *, is_packed: bool) -> str:
    try:
        content = path.read_bytes()
        if is_packed:
            content = _unpacked(content, path)
        return content.decode("utf-8-sig")  # Excel puts a byte order mark before its UTF-8
    except UnicodeDecodeError as error:
        raise ModulesError(
            f"{str(path)!r} should be in UTF-8: {error}. Save it as UTF-8 (Excel: 'CSV UTF-8')."
        ) from error
    except (OSError, ValueError, EOFError, zlib.error) as error:
        raise ModulesError(
            f"Cannot read the prompts {str(path)!r}: {error}. Name a file that exists."
        ) from error


def _unpacked(content: bytes, path: Path) -> bytes:
    """Unpack a gzipped file, up to a limit: the content may be far larger than the file."""
    most = max(_MOST_TIMES * len(content), _SMALL)
    with gzip.open(io.BytesIO(content)) as file:
        unpacked = file.read(most + 1)
    if len(unpacked) > most:
        raise ModulesError(
            f"{str(path)!r} should hold at most {most:,} bytes, {_MOST_TIMES} times its own size; "
            "it holds more. Unpack it first, if you trust it."
        )
    return unpacked


def _read_parquet(path: Path) -> pd.DataFrame:
    try:
        from pyarrow import ArrowException
        from pyarrow.parquet import read_metadata, read_table
    except ImportError as error:
        raise ModulesError("Reading Parquet needs pyarrow. Run: pip install pyarrow") from error
    try:
        # A few bytes can encode any number of repetitions of a value. Real prompts differ, so that
        # each needs at least a byte.
        n_rows, size = read_metadata(path).num_rows, path.stat().st_size
        if n_rows > size:
            raise ValueError(f"{n_rows:,} rows in {size:,} bytes cannot all be prompts")
        read_table(path).validate(full=True)  # pandas accepts texts that are not UTF-8
        return pd.read_parquet(path)
    except (ArrowException, OSError, *PARSE_ERRORS) as error:
        raise ModulesError(
            f"Cannot read the prompts {str(path)!r}: {error}. Name a Parquet file."
        ) from error


def _json_lines(name: str, text: str, prompt: str) -> pd.DataFrame:
    # str.splitlines would also split at U+2028, which JSON texts may contain.
    lines = enumerate(text.split("\n"), 1)
    rows = [
        (f"Line {number}", _parse(f"Line {number} of {name}", line))
        for number, line in lines
        if line.strip()
    ]
    return _objects(name, rows, prompt)


def _json_list(name: str, text: str, prompt: str) -> pd.DataFrame:
    if _is_lines(text):
        return _json_lines(name, text, prompt)
    content = _parse(name, text)
    if not isinstance(content, list):
        raise ModulesError(f"{name} should hold a list of objects; {_json_held(content)}")
    return _objects(name, [(f"Row {row}", value) for row, value in enumerate(content)], prompt)


def _json_held(content: object) -> str:
    """Describe the content of a JSON file that is no list, with the remedy."""
    if not isinstance(content, dict):
        return f"got {shown(content)}. A file with one object per line should end in .jsonl."
    held = f"it holds one object with the keys {quoted(map(str, content))}."
    for key, value in content.items():
        if isinstance(value, list) and value and isinstance(value[0], dict):
            return f"{held} Save the list under {key!r} alone."
    if any(isinstance(value, dict | list) for value in content.values()):
        return (
            f"{held} A pandas frame's to_json() writes columns in this way: use "
            "to_json(path, orient='records'), or pass the frame."
        )
    return f"{held} A file with one object per line should end in .jsonl."


def _is_lines(text: str) -> bool:
    """Whether a file is JSON Lines: it has several lines, and the first is a complete object."""
    first, _, rest = text.lstrip().partition("\n")
    try:
        return bool(rest.strip()) and isinstance(parse_json(first), dict)
    except ValueError:
        return False


def _parse(place: str, text: str) -> Any:
    try:
        value = parse_json(text)
        # JSON may escape a lone surrogate, which is no character and cannot be stored in UTF-8.
        json.dumps(value, ensure_ascii=False).encode()
        return value
    except ValueError as error:
        raise ModulesError(f"{place} is no JSON: {error}. Correct or drop it.") from error


def _objects(name: str, rows: list[Row], prompt: str) -> pd.DataFrame:
    _check_texts(name, rows, prompt, "be an object with")
    n_cells = len(rows) * len({key for _, row in rows for key in row})
    n_filled = sum(len(row) for _, row in rows)
    if n_cells > max(_MOST_TIMES * n_filled, _SMALL):
        raise ModulesError(
            f"{name} should have about the same keys in every object; its table would have "
            f"{n_cells:,} cells, of which {n_filled:,} are filled. Drop keys that few objects have."
        )
    keys = dict.fromkeys(key for _, row in rows for key in row)
    return pd.DataFrame({key: json_column([row.get(key) for _, row in rows]) for key in keys})


def _csv(name: str, text: str, prompt: str, delimiter: str = ",") -> pd.DataFrame:
    rows = delimited_rows(name, text, prompt, delimiter, _NAME_IT)
    _check_texts(name, iter(rows), prompt, "have")
    return pd.DataFrame([row for _, row in rows])


def _tsv(name: str, text: str, prompt: str) -> pd.DataFrame:
    return _csv(name, text, prompt, delimiter="\t")


_TEXT_FORMATS: dict[str, Callable[[str, str, str], pd.DataFrame]] = {
    ".jsonl": _json_lines,
    ".ndjson": _json_lines,
    ".json": _json_list,
    ".csv": _csv,
    ".tsv": _tsv,
}
