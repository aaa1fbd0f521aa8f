"""One file format for everything saved: safetensors with a JSON header and a checksum.

Files are untrusted input: nothing is unpickled, and a file either loads whole or raises
ModulesError. Writing is atomic: a reader sees the old file or the new one, never half of one.
"""

import contextlib
import hashlib
import json
import os
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from tl_modules.errors import ModulesError

FORMAT_VERSION = 2
_ENTRY = "tl_modules"
_LONG = 10_000_000
"""A JSON header longer than this is kept as an array of bytes."""
_Built = TypeVar("_Built")
_REMEDY = "Save it again, or fetch an intact copy."


def write(path: str | Path, kind: str, header: dict[str, Any], arrays: dict[str, np.ndarray]):
    """Write arrays and a JSON header to one file, atomically.

    Args:
        path: Where to; an existing file is replaced only once the new one is whole on disk.
        kind: What the file holds, such as ``"ModuleSet"``; ``read`` asks for it.
        header: JSON-ready values.
        arrays: NumPy arrays by name.

    Raises:
        ModulesError: If the file cannot be written (no such folder, no permission, disk full).
    """
    write_bytes(path, encode(kind, header, arrays))


def encode(kind: str, header: dict[str, Any], arrays: dict[str, np.ndarray]) -> bytes:
    """The bytes that ``write`` writes.

    Args:
        kind: What the file holds.
        header: JSON-ready values.
        arrays: NumPy arrays by name.

    Returns:
        A safetensors file.
    """
    arrays = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    described = {
        "kind": kind,
        "format_version": FORMAT_VERSION,
        "sha256": _checksum(kind, header, arrays),
        "header": header,
    }
    text = json.dumps(described, default=_plain)
    if len(text) > _LONG:  # a safetensors header ends at 100 MB
        arrays[_ENTRY] = np.frombuffer(text.encode(), dtype=np.uint8)
        text = json.dumps({"kind": kind})
    # One entry: safetensors writes several in no fixed order, and equal runs should give equal
    # files.
    return save(arrays, metadata={_ENTRY: text})


def write_bytes(path: str | Path, data: bytes) -> None:
    """Write a file atomically: a temporary one beside it, flushed to disk, then renamed.

    Raises:
        ModulesError: If the file cannot be written; a file already there stays as it was.
    """
    with atomic(path) as file:
        file.write(data)


@contextlib.contextmanager
def atomic(path: str | Path) -> Iterator[BinaryIO]:
    """A file to write to, which appears under its name only once all of it is on disk.

    Args:
        path: Where to; an existing file is replaced at the end.

    Yields:
        A binary file.

    Raises:
        ModulesError: If the file cannot be written; a file already there stays as it was.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        with temporary.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise ModulesError(
            f"Cannot write {str(path)!r}: {error.strerror or error}. Nothing was changed there; "
            "check that the folder exists, may be written to and has free space."
        ) from error
    finally:
        with contextlib.suppress(OSError):  # gone already where all went well
            temporary.unlink(missing_ok=True)


def read(
    path: str | Path,
    kind: str,
    build: Callable[[dict[str, Any], dict[str, np.ndarray]], _Built],
) -> _Built:
    """Read a file that ``write`` made, checking that it is whole, unaltered and of this kind.

    Args:
        path: The file.
        kind: What it should hold.
        build: Makes the result of the JSON header and the arrays by name.

    Returns:
        What ``build`` returned.

    Raises:
        ModulesError: If the file is missing, truncated, altered, holds something else, or lacks
            what ``build`` needs.
    """
    path = Path(path)
    if not path.is_file():
        raise ModulesError(f"There is no file {str(path)!r}. Check the path.")
    try:
        with safe_open(path, framework="numpy") as file:
            described = json.loads((file.metadata() or {}).get(_ENTRY, "{}"))
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            if _ENTRY in arrays:
                described = json.loads(arrays.pop(_ENTRY).tobytes())
    except (SafetensorError, OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        raise ModulesError(
            f"{str(path)!r} is no readable safetensors file ({error}). {_REMEDY}"
        ) from error
    if not isinstance(described, dict) or described.get("kind") != kind:
        found = described.get("kind") if isinstance(described, dict) else described
        raise ModulesError(
            f"{str(path)!r} should hold a {kind}; it holds {found!r}. Load it with the class that "
            "saved it."
        )
    if described.get("format_version") != FORMAT_VERSION:
        raise ModulesError(
            f"{str(path)!r} has format version {described.get('format_version')!r}; this version "
            f"of tl_modules reads {FORMAT_VERSION}. Install the version that wrote it."
        )
    header = described.get("header")
    if not isinstance(header, dict):
        raise ModulesError(f"{str(path)!r} has a broken JSON header. {_REMEDY}")
    if described.get("sha256") != _checksum(kind, header, arrays):
        raise ModulesError(f"{str(path)!r} was altered: its checksum does not match. {_REMEDY}")
    try:
        return build(header, arrays)
    except ModulesError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise ModulesError(
            f"{str(path)!r} lacks parts of a {kind} ({error!r}). {_REMEDY}"
        ) from error


def _plain(value: object) -> object:
    """NumPy scalars as Python's own numbers, for JSON."""
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"{type(value).__name__} cannot be saved as JSON")


def _checksum(kind: str, header: dict[str, Any], arrays: dict[str, np.ndarray]) -> str:
    """SHA-256 over the header and every array's name, type, shape and bytes."""
    digest = hashlib.sha256(json.dumps([kind, header], default=_plain).encode())
    for name in sorted(arrays):
        array = arrays[name]
        digest.update(f"{name}|{array.dtype}|{array.shape}|".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()
