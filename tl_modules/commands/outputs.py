"""The files that a command writes: the ones that were named, or in the folder that was named.

No file that exists is replaced, unless the same command wrote it or ``--force`` is given. A folder
of output has a record of what each command wrote there; a single file holds its note itself.
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
"""In a folder of output: which command wrote each file, and the checksum that it had."""

Parts = tuple[dict[str, Any], dict[str, np.ndarray]]
"""What a file keeps: a JSON-ready header, and arrays by name."""

_OUTPUTS = ("out", "samples", "table")
_SIGNED = re.compile(rb"<!-- written by tl-modules (\w+); sha256 ([0-9a-f]{64}) -->\n\Z")


class OutputFolder:
    """The folder that ``--out`` names, and the files that the command is to write there."""

    def __init__(self, args: argparse.Namespace, names: Sequence[str]) -> None:
        """Check the files, then make the folder.

        Args:
            args: The command's options.
            names: The files.

        Raises:
            ModulesError: If one exists that this command did not write, one is read by this
                command, or the folder cannot be made.
        """
        self._path: Path = args.out
        self._command: str = args.command
        check_outputs(args, {self._path / name: self._is_own for name in names})
        make_folder(self._path)

    def write(self, name: str, data: bytes) -> None:
        """Write a file, and record it.

        Args:
            name: One of the files.
            data: What it holds.

        Raises:
            ModulesError: If it cannot be written.
        """
        record = self._read()
        # The old file's checksum too: whatever stops this, the file is known again.
        checksums = [hashlib.sha256(data).hexdigest(), *_checksums(self._path / name)]
        record[name] = {"command": self._command, "sha256": checksums}
        files.write_bytes(self._path / RECORD, _json(record))
        files.write_bytes(self._path / name, data)

    def write_table(self, name: str, frame: pd.DataFrame) -> None:
        """Write a frame as CSV.

        Raises:
            ModulesError: If it cannot be written.
        """
        self.write(name, table_bytes(self._path / name, frame))

    def write_saved(self, name: str, kind: str, parts: Parts) -> None:
        """Write what ``parts()`` of a matrix or a module set returned.

        Raises:
            ModulesError: If it cannot be written.
        """
        self.write(name, files.encode(kind, *parts, {"command": self._command}))

    def _is_own(self, path: Path) -> bool:
        try:
            entry = self._read()[path.name]
            own = entry["command"] == self._command
            return own and bool(set(entry["sha256"]) & set(_checksums(path)))
        except PARSE_ERRORS:
            return False

    def _read(self) -> dict[str, Any]:
        """The record; empty where there is none, or none that can be read."""
        try:
            return dict(parse_json((self._path / RECORD).read_bytes()))
        except (OSError, *PARSE_ERRORS):
            return {}


def check_outputs(
    args: argparse.Namespace,
    is_own: Mapping[Path, Callable[[Path], bool]],
    also_read: Sequence[Path] = (),
) -> None:
    """Refuse to write over files, before any work.

    Args:
        args: The command's options: those that name a file to read are never written over.
        is_own: Whether this command wrote the file that is there, by the path that it will write.
        also_read: More files that the command reads.

    Raises:
        ModulesError: If a path is a folder or a file that the command reads, two are the same, or
            one exists and is not the command's own.
    """
    read = {path.resolve() for path in (*_inputs(args), *also_read)}
    if len({path.resolve() for path in is_own}) < len(is_own):
        raise ModulesError(f"Each output should be a file of its own; got {_listed(is_own)}.")
    for path, own in is_own.items():
        if path.is_dir():
            raise ModulesError(f"--out should name a file; {str(path)!r} is a folder.")
        if path.resolve() in read:
            raise ModulesError(
                f"{str(path)!r} is read by this command, so it cannot be written to. Name another "
                "output."
            )
        if os.path.lexists(path) and not args.force and not own(path):
            raise ModulesError(
                f"{str(path)!r} exists, and no record shows that 'tl-modules {args.command}' wrote "
                "it as it is. Name another output, or pass --force to replace it."
            )


def _listed(paths: Mapping[Path, Any]) -> str:
    return ", ".join(repr(str(path)) for path in paths)


def _inputs(args: argparse.Namespace) -> list[Path]:
    """The files that the options name to be read."""
    named = [value for name, value in vars(args).items() if name not in _OUTPUTS]
    paths = [path for value in named for path in (value if isinstance(value, list) else [value])]
    paths.append(Path(getattr(args, "prompts", ".")))
    return [path for path in paths if isinstance(path, Path)]


class OutputFile:
    """The safetensors file that ``--out`` names, and a table of its rows where one is asked for."""

    def __init__(self, args: argparse.Namespace, table: Path | None) -> None:
        """Check the files, and make their folders.

        Args:
            args: The command's options.
            table: A CSV or JSON file, or None.

        Raises:
            ModulesError: If one exists that this command did not write, one is read by this
                command, the file or the table has another ending, or a folder cannot be made.
        """
        self._path: Path = args.out
        self._command: str = args.command
        self._table = table
        own = {self._path: self._is_own}
        if self._path.suffix.lower() != ".safetensors":
            raise ModulesError(f"--out should end in .safetensors; got {str(self._path)!r}.")
        _check_ending(table)
        check_outputs(args, own if table is None else own | {table: self._is_own_table})
        for path in (self._path, *([] if table is None else [table])):
            make_folder(path.parent)

    def write(self, kind: str, parts: Parts, frame: pd.DataFrame) -> None:
        """Write the file, and the table.

        Args:
            kind: What the file holds.
            parts: What ``parts()`` returned.
            frame: The table.

        Raises:
            ModulesError: If one cannot be written.
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
    """Check a table that goes with no single file that could tell whose it is.

    Args:
        args: The command's options.
        table: A CSV or JSON file, or None.
        is_own: Whether this command wrote the table that is there.

    Raises:
        ModulesError: If it exists, is read by this command, has another ending, or its folder
            cannot be made.
    """
    _check_ending(table)
    if table is not None:
        check_outputs(args, {table: is_own})
        make_folder(table.parent)


def write_table(table: Path, frame: pd.DataFrame) -> None:
    """Write a frame as CSV or JSON, by the path's ending.

    Raises:
        ModulesError: If it cannot be written.
    """
    files.write_bytes(table, table_bytes(table, frame))


def _check_ending(table: Path | None) -> None:
    if table is not None and table.suffix.lower() not in (".csv", ".json"):
        raise ModulesError(f"A table should end in .csv or .json; got {str(table)!r}.")


def table_bytes(path: Path, frame: pd.DataFrame) -> bytes:
    """A frame as CSV, or as a JSON list of rows, by the path's ending."""
    if path.suffix.lower() == ".json":
        text = frame.to_json(orient="records", indent=2) or ""
        return text.encode(errors="replace")
    return frame.to_csv(index=False).encode(errors="replace")


def signed(page: bytes, command: str) -> bytes:
    """A page with a note of the command that wrote it, and of its checksum."""
    digest = hashlib.sha256(page).hexdigest()
    return page + f"<!-- written by tl-modules {command}; sha256 {digest} -->\n".encode()


def is_signed(path: Path, command: str) -> bool:
    """Whether a page is as a command wrote it."""
    try:
        data = path.read_bytes()
    except OSError:
        return False
    note = _SIGNED.search(data[-200:])
    if note is None or note[1].decode() != command:
        return False
    page = data[: -len(note[0])]
    return hashlib.sha256(page).hexdigest() == note[2].decode()


def make_folder(path: Path) -> None:
    """Make a folder to write to, now rather than after the work.

    Raises:
        ModulesError: If it cannot be made.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ModulesError(f"Cannot make the folder {str(path)!r}: {error}.") from error


def _checksums(path: Path) -> list[str]:
    """A file's checksum, in a list; empty where there is no file."""
    try:
        with path.open("rb") as file:
            return [hashlib.file_digest(file, "sha256").hexdigest()]
    except OSError:
        return []


def _json(record: dict[str, Any]) -> bytes:
    return json.dumps(record, indent=2, sort_keys=True).encode()
