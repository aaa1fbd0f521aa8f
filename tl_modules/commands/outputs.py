"""Write a command's files: the files that its options name, or files in a named folder.

An existing file is replaced only if the same command wrote it, or with ``--force``. An output
folder has a record of the files that each command wrote; a single file holds this note itself.
"""

import argparse
import hashlib
import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from tl_modules.errors import ModulesError
from tl_modules.saving import files
from tl_modules.saving.checked_json import PARSE_ERRORS, parse_json

RECORD = ".tl-modules.json"
"""The record of an output folder: the command that wrote each file, and the file's checksums."""

Parts = tuple[dict[str, Any], dict[str, np.ndarray]]
"""The content of a file: a JSON-ready header, and arrays by name."""

_OUTPUTS = ("out", "samples", "table")
_SIGNED = re.compile(rb"<!-- written by tl-modules (\w+); sha256 ([0-9a-f]{64}) -->\n\Z")


class OutputFolder:
    """The folder that ``--out`` names, and the files that the command will write there."""

    def __init__(self, args: argparse.Namespace, names: Sequence[str]) -> None:
        """Check that the files may be written, then make the folder.

        Args:
            args: The command's options.
            names: The names of the files.

        Raises:
            ModulesError: If a file exists that this command did not write, this command reads one
                of the files, or the folder cannot be made.
        """
        self._path: Path = args.out
        self._command: str = args.command
        check_outputs(args, {self._path / name: self._is_own for name in names})
        make_folder(self._path)

    def write(self, name: str, data: bytes) -> None:
        """Write a file, and record it.

        Args:
            name: The name of the file.
            data: The content.

        Raises:
            ModulesError: If the file cannot be written.
        """
        record = self._read()
        # The record comes first and has the old file's checksum too, so that an interruption
        # between the two writes leaves a file that the record knows.
        checksums = [hashlib.sha256(data).hexdigest(), *_checksums(self._path / name)]
        record[name] = {"command": self._command, "sha256": checksums}
        files.write_bytes(self._path / RECORD, _json(record))
        files.write_bytes(self._path / name, data)

    def write_table(self, name: str, frame: pd.DataFrame) -> None:
        """Write a frame as CSV.

        Raises:
            ModulesError: If the file cannot be written.
        """
        self.write(name, table_bytes(self._path / name, frame))

    def write_saved(self, name: str, kind: str, parts: Parts) -> None:
        """Write the ``parts()`` of a matrix or a module set.

        Raises:
            ModulesError: If the file cannot be written.
        """
        self.write(name, files.encode(kind, *parts, {"command": self._command}))

    def _is_own(self, path: Path) -> bool:
        try:
            entry = self._read()[path.name]
            same_command = entry["command"] == self._command
            return same_command and bool(set(entry["sha256"]) & set(_checksums(path)))
        except PARSE_ERRORS:
            return False

    def _read(self) -> dict[str, Any]:
        """Read the record; it is empty if it is missing or unreadable."""
        try:
            return dict(parse_json((self._path / RECORD).read_bytes()))
        except (OSError, *PARSE_ERRORS):
            return {}


def check_outputs(
    args: argparse.Namespace,
    is_own: Mapping[Path, Callable[[Path], bool]],
    also_read: Sequence[Path] = (),
) -> None:
    """Refuse, before any work, to overwrite files that this command did not write.

    Args:
        args: The command's options; files that they name as inputs are never overwritten.
        is_own: For each output path, a function that says whether this command wrote the file.
        also_read: Further files that the command reads.

    Raises:
        ModulesError: If a path is a folder or an input, two paths are the same, or a file exists
            that this command did not write.
    """
    # Resolved, so that a link or another spelling of the path is noticed.
    read = {path.resolve() for path in (*_inputs(args), *also_read)}
    if len({path.resolve() for path in is_own}) < len(is_own):
        raise ModulesError(
            f"Outputs should be different files; got {_listed(is_own)}. Name another file."
        )
    for path, this_command_wrote in is_own.items():
        if path.is_dir():
            raise ModulesError(
                f"--out should name a file; {str(path)!r} is a folder. Name a file in it."
            )
        if path.resolve() in read:
            raise ModulesError(
                f"An output should not be an input; this command reads {str(path)!r}. Name another "
                "output."
            )
        # lexists also sees a broken link, which writing would replace.
        if os.path.lexists(path) and not args.force and not this_command_wrote(path):
            raise ModulesError(
                f"{str(path)!r} exists, and no record shows that 'tl-modules {args.command}' wrote "
                "this version of it. Name another output, or pass --force to replace it."
            )


def _listed(paths: Mapping[Path, Any]) -> str:
    return ", ".join(repr(str(path)) for path in paths)


def _inputs(args: argparse.Namespace) -> list[Path]:
    """Return the input files that the options name."""
    named = [value for name, value in vars(args).items() if name not in _OUTPUTS]
    paths = [path for value in named for path in (value if isinstance(value, list) else [value])]
    paths.append(Path(getattr(args, "prompts", ".")))
    return [path for path in paths if isinstance(path, Path)]


class OutputFile:
    """The safetensors file that ``--out`` names, and optionally a table of its rows."""

    def __init__(self, args: argparse.Namespace, table: Path | None) -> None:
        """Check that the files may be written, and make their folders.

        Args:
            args: The command's options.
            table: A CSV or JSON file, or None.

        Raises:
            ModulesError: If a file exists that this command did not write, this command reads one
                of the files, a file has another ending, or a folder cannot be made.
        """
        self._path: Path = args.out
        self._command: str = args.command
        self._table = table
        is_own = {self._path: self._is_own}
        if self._path.suffix.lower() != ".safetensors":
            raise ModulesError(
                f"--out should end in .safetensors; got {str(self._path)!r}. Rename it."
            )
        _check_ending(table)
        check_outputs(args, is_own if table is None else is_own | {table: self._is_own_table})
        for path in (self._path, *([] if table is None else [table])):
            make_folder(path.parent)

    def write(self, kind: str, parts: Parts, frame: pd.DataFrame) -> None:
        """Write the file, and the table.

        Args:
            kind: The kind of the file's content.
            parts: The content, as ``parts()`` returns it.
            frame: The table.

        Raises:
            ModulesError: If a file cannot be written.
        """
        table = None if self._table is None else table_bytes(self._table, frame)
        note: dict[str, Any] = {"command": self._command}
        if table is not None:
            note["table"] = hashlib.sha256(table).hexdigest()
        files.write_bytes(self._path, files.encode(kind, *parts, note))
        if self._table is not None and table is not None:
            files.write_bytes(self._table, table)

    def _is_own(self, path: Path) -> bool:
        return files.written_by(path).get("command") == self._command

    def _is_own_table(self, path: Path) -> bool:
        return self._is_own(self._path) and files.written_by(self._path).get("table") in (
            _checksums(path)
        )


def check_table(
    args: argparse.Namespace, table: Path | None, is_own: Callable[[Path], bool]
) -> None:
    """Check a table that has no single file beside it to record which command wrote it.

    Args:
        args: The command's options.
        table: A CSV or JSON file, or None.
        is_own: Says whether this command wrote the existing table.

    Raises:
        ModulesError: If another command wrote the table, this command reads it, it has another
            ending, or its folder cannot be made.
    """
    _check_ending(table)
    if table is not None:
        check_outputs(args, {table: is_own})
        make_folder(table.parent)


def write_table(table: Path, frame: pd.DataFrame) -> None:
    """Write a frame as CSV or JSON, by the path's ending.

    Raises:
        ModulesError: If the file cannot be written.
    """
    files.write_bytes(table, table_bytes(table, frame))


def _check_ending(table: Path | None) -> None:
    if table is not None and table.suffix.lower() not in (".csv", ".json"):
        raise ModulesError(f"A table should end in .csv or .json; got {str(table)!r}. Rename it.")


def table_bytes(path: Path, frame: pd.DataFrame) -> bytes:
    """Encode a frame as CSV, or as a JSON list of rows, by the path's ending."""
    if path.suffix.lower() == ".json":
        text = frame.to_json(orient="records", indent=2) or ""
        return text.encode(errors="replace")
    return frame.to_csv(index=False).encode(errors="replace")


def signed(page: bytes, command: str) -> bytes:
    """Append a note to a page: the command that wrote it, and the page's checksum."""
    digest = hashlib.sha256(page).hexdigest()
    return page + f"<!-- written by tl-modules {command}; sha256 {digest} -->\n".encode()


def is_signed(path: Path, command: str) -> bool:
    """Whether a command wrote this page, and nothing changed it since."""
    try:
        data = path.read_bytes()
    except OSError:
        return False
    # The note is shorter than 200 bytes; searching the whole page would find a quoted one.
    note = _SIGNED.search(data[-200:])
    if note is None or note[1].decode() != command:
        return False
    page = data[: -len(note[0])]
    return hashlib.sha256(page).hexdigest() == note[2].decode()


def make_folder(path: Path) -> None:
    """Make an output folder before the work, so that an error costs no work.

    Raises:
        ModulesError: If the folder cannot be made.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ModulesError(
            f"Cannot make the folder {str(path)!r}: {error}. Name another folder."
        ) from error


def _checksums(path: Path) -> list[str]:
    """Return a file's checksum in a list; the list is empty if there is no file."""
    try:
        with path.open("rb") as file:
            return [hashlib.file_digest(file, "sha256").hexdigest()]
    except OSError:
        return []


def _json(record: dict[str, Any]) -> bytes:
    return json.dumps(record, indent=2, sort_keys=True).encode()
