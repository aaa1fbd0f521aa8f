"""The one file format of everything saved: safetensors with a JSON header and a checksum.

Files are untrusted input. Nothing is unpickled, and a file either loads completely or raises
ModulesError. Writing is atomic: a reader sees the old file or the new file, never a part of one.
"""

import contextlib
import hashlib
import json
import os
import secrets
from collections.abc import Callable, Iterator
from math import prod
from operator import le
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import numpy as np
import psutil
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from tl_modules.errors import ModulesError, check_type
from tl_modules.saving.checked_json import PARSE_ERRORS, parse_json

FORMAT_VERSION = 2
_ENTRY = "tl_modules"
_LONG = 10_000_000
"""A longer JSON header is stored as an array of bytes."""
_LONGEST = 2**30
"""A longer JSON header is not read."""
_Built = TypeVar("_Built")
_REMEDY = "Save it again, or fetch an intact copy."


def checked_path(path: str | os.PathLike[str]) -> Path:
    """Convert to a ``Path`` that the system accepts, whether or not a file is there.

    ``~`` at the beginning is the user's home, as in a shell.

    Raises:
        ModulesError: If the value is not a path, or holds a zero byte, an unpaired surrogate or a
            name of over 255 bytes.
    """
    check_type(path, str | os.PathLike, "A path should be a text or a pathlib.Path", "Name a file.")
    with contextlib.suppress(RuntimeError):  # no such user: the name stays, as in a shell
        path = Path(path).expanduser()
    try:
        if "\0" in str(path) or any(len(os.fsencode(part)) > 255 for part in Path(path).parts):
            raise ValueError("it holds a zero byte, or a name of over 255 bytes")
    except ValueError as error:
        raise ModulesError(
            f"{str(path)[:300]!r} is not a valid path: {error}. Name another path."
        ) from error
    return Path(path)


def write(path: str | Path, kind: str, header: dict[str, Any], arrays: dict[str, np.ndarray]):
    """Write arrays and a JSON header to one file, atomically.

    Args:
        path: The file. An existing one is replaced only once the new one is complete on disk.
        kind: The kind of content, such as ``"ModuleSet"``; ``read`` checks it.
        header: JSON-ready values.
        arrays: NumPy arrays by name.

    Raises:
        ModulesError: If the file cannot be written (no such folder, no permission, disk full).
    """
    write_bytes(path, encode(kind, header, arrays))


def encode(
    kind: str,
    header: dict[str, Any],
    arrays: dict[str, np.ndarray],
    written_by: dict[str, Any] | None = None,
) -> bytes:
    """The bytes that ``write`` writes.

    Args:
        kind: The kind of content.
        header: JSON-ready values.
        arrays: NumPy arrays by name.
        written_by: A command's note about the call that wrote the file; ``written_by`` reads it.

    Returns:
        The content of a safetensors file.
    """
    arrays = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    described = {
        "kind": kind,
        "format_version": FORMAT_VERSION,
        "sha256": _checksum(kind, header, arrays),
        "header": header,
    }
    note = {} if written_by is None else {"written_by": written_by}
    described |= note
    text = json.dumps(described, default=_plain)
    if len(text) > _LONG:  # a safetensors header ends at 100 MB
        arrays[_ENTRY] = np.frombuffer(text.encode(), dtype=np.uint8)
        text = json.dumps({"kind": kind, **note})
    # All metadata is one entry: safetensors writes several entries in no fixed order, and equal
    # runs should write equal files.
    return save(arrays, metadata={_ENTRY: text})


def written_by(path: str | Path) -> dict[str, Any]:
    """The note of the command that wrote a file; empty if there is none.

    Args:
        path: Any file, also one that this package did not write.
    """
    try:
        with safe_open(path, framework="numpy") as file:
            described = parse_json((file.metadata() or {}).get(_ENTRY, "{}"))
        return dict(described["written_by"])
    except (SafetensorError, OSError, *PARSE_ERRORS):
        return {}


def write_bytes(path: str | Path, data: bytes) -> None:
    """Write a file atomically.

    Raises:
        ModulesError: If the file cannot be written; an existing file is then unchanged.
    """
    with atomic(path) as file:
        file.write(data)


@contextlib.contextmanager
def atomic(path: str | Path) -> Iterator[BinaryIO]:
    """Open a file that appears under its name only once all of it is on disk.

    Args:
        path: The file. An existing one is replaced at the end.

    Yields:
        A binary file to write to.

    Raises:
        ModulesError: If the file cannot be written; an existing file is then unchanged.
    """
    path = checked_path(path)
    if not path.name:
        raise ModulesError(
            f"{str(path)!r} should name a file to write to; it is a folder. Add the file's name."
        )
    # In the same folder, since a rename is atomic only within one file system.
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        with temporary.open("xb") as file:
            yield file
            file.flush()
            # Without fsync a power cut could leave the new name with an empty file.
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise ModulesError(
            f"Cannot write {str(path)!r}: {error.strerror or error}. Nothing was changed there. "
            "Check that the folder exists, is writable and has free space."
        ) from error
    finally:
        with contextlib.suppress(OSError):  # renamed already, if nothing failed
            temporary.unlink(missing_ok=True)


def read(
    path: str | Path,
    kind: str,
    build: Callable[[dict[str, Any], dict[str, np.ndarray]], _Built],
    largest: Callable[[dict[str, Any]], dict[str, tuple[int, ...]]] = lambda _: {},
) -> _Built:
    """Read a file that ``write`` wrote, and check that it is complete, unaltered and of a kind.

    Args:
        path: The file.
        kind: The kind of content that the file should hold.
        build: Builds the result from the JSON header and the arrays by name.
        largest: Returns each array's largest valid shape, by name, from the JSON header. It is
            called before any array is read. By default the file should hold no array.

    Returns:
        What ``build`` returned.

    Raises:
        ModulesError: If the file is missing, truncated or altered, is of another kind, lacks parts
            that ``build`` needs, has larger arrays than its header describes, or is larger than
            the free memory.
    """
    path = checked_path(path)
    if not path.is_file():
        raise ModulesError(f"There is no file {str(path)!r}. Check the path.")
    try:
        with safe_open(path, framework="numpy") as file:
            header, sha256 = _header(file, str(path), kind)
            _check_shapes(file, path, largest(header))
            names = [name for name in file.keys() if name != _ENTRY]  # noqa: SIM118
            arrays = {name: file.get_tensor(name) for name in names}
        if sha256 != _checksum(kind, header, arrays):
            raise ModulesError(f"{str(path)!r} was altered: its checksum does not match. {_REMEDY}")
        return build(header, arrays)
    except ModulesError:
        raise
    except (SafetensorError, OSError) as error:
        raise ModulesError(
            f"{str(path)!r} is not a readable safetensors file ({error}). {_REMEDY}"
        ) from error
    except PARSE_ERRORS as error:
        raise ModulesError(
            f"{str(path)!r} lacks parts of a {kind} ({error!r:.200}). {_REMEDY}"
        ) from error


def _header(file: Any, path: str, kind: str) -> tuple[dict[str, Any], str]:
    """Read the JSON header and the checksum of an open file, and check its kind and version."""
    described = parse_json((file.metadata() or {}).get(_ENTRY, "{}"))
    if _ENTRY in file.keys():  # noqa: SIM118
        size = prod(file.get_slice(_ENTRY).get_shape())
        if size > _LONGEST:
            raise ModulesError(
                f"{path!r} should have a JSON header of at most {_LONGEST:,} bytes; it has "
                f"{size:,}. {_REMEDY}"
            )
        described = parse_json(file.get_tensor(_ENTRY).tobytes())
    if not isinstance(described, dict) or described.get("kind") != kind:
        actual = described.get("kind") if isinstance(described, dict) else described
        raise ModulesError(
            f"{path!r} should hold a {kind}; it holds {actual!r:.80}. Load the file with the class "
            "that saved it."
        )
    if described.get("format_version") != FORMAT_VERSION:
        raise ModulesError(
            f"{path!r} has format version {described.get('format_version')!r:.80}; this version "
            f"of tl_modules reads {FORMAT_VERSION}. Install the version that wrote it."
        )
    header = described.get("header")
    if not isinstance(header, dict):
        raise ModulesError(f"{path!r} has a broken JSON header. {_REMEDY}")
    return header, str(described.get("sha256"))


def _check_shapes(file: Any, path: Path, largest: dict[str, tuple[int, ...]]) -> None:
    """Refuse arrays that are larger than the header describes, before any array is read.

    A forged file could otherwise fill the memory before its checksum is compared.
    """
    for name in file.keys():  # noqa: SIM118
        shape, most = tuple(file.get_slice(name).get_shape()), largest.get(name, (-1,))
        fits = len(shape) == len(most) and all(map(le, shape, most))
        if name != _ENTRY and not fits:
            raise ModulesError(
                f"{str(path)!r} should have only the arrays that its header describes, none of "
                f"them larger; {name!r:.80} has shape {shape}. {_REMEDY}"
            )
    size, free = path.stat().st_size, psutil.virtual_memory().available
    if size > free:
        raise ModulesError(
            f"{str(path)!r} holds {size / 1e9:,.1f} GB; {free / 1e9:,.1f} GB of memory are free. "
            "Free some memory, or keep activations in an ActivationStore, which is read in parts."
        )


def _plain(value: object) -> object:
    """Convert NumPy scalars to Python's numbers, for JSON."""
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"{type(value).__name__} cannot be saved as JSON")


def _checksum(kind: str, header: dict[str, Any], arrays: dict[str, np.ndarray]) -> str:
    """SHA-256 over the header and every array's name, type, shape and bytes."""
    digest = hashlib.sha256(json.dumps([kind, header], default=_plain).encode())
    for name in sorted(arrays):
        array = arrays[name]
        digest.update(f"{name}|{array.dtype}|{array.shape}|".encode())
        digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return digest.hexdigest()
