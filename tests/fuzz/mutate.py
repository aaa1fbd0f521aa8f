"""Mutations of files, each chosen by some bytes: hypothesis draws them, atheris steers them."""

import io
import json
import struct
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

from tests.fuzz.well_made import Parts
from tl_modules.saving import files


class Choices:
    """A stream of choices."""

    def __init__(self, data: bytes) -> None:
        self._data = io.BytesIO(data)
        self.said: list[str] = []
        """What was done, for a failing example's message."""

    def below(self, n: int) -> int:
        """A number from 0 to n - 1; 0 where the bytes have ended."""
        size = 2 if n <= 2**16 else 4
        return int.from_bytes(self._data.read(size), "little") % n if n > 1 else 0

    def of(self, options: Any) -> Any:
        return options[self.below(len(options))]

    def say(self, what: str) -> None:
        self.said.append(what)


def _nested(depth: int, inner: Any = None) -> Any:
    for _ in range(depth):
        inner = [inner]
    return inner


HOSTILE = [
    *(None, True, False, 0, 1, -1, 2, 3, 7, 2**31, 2**32, 2**53 + 1, 2**63 - 1, 2**63, 2**64),
    *(-(2**63), -(2**63) - 1, 10**12, 10**30, 10**400, -(10**400), 10**4299, 0.0, 0.5, -0.0),
    *(1.0, 2.0, 2.5, 1e308, -1e308, 5e-324, float("nan"), float("inf"), -float("inf")),
    *(
        "",
        "x",
        "a",
        "0",
        "1",
        "nan",
        "\0",
        "\ud800",
        "\udfff\ud800",
        "a\ud800b",
        "\u202e\u2028\x7f",
    ),
    *("../../x", "/etc/passwd", "..", ".", "a/b", "a\0b", "x" * 300, "x" * 100_000),
    *("<script>alert(1)</script>", "<img src=x onerror=alert(1)>", "{layer}", "%s", "{0}", "$x$"),
    *("zscore", "rank", "none", "float16", "bfloat16", "mean", "max", "last", "attribution"),
    *("1970-01-01", "score", "prompt", "category", "chunk-00001.npy", "store.safetensors"),
    *([], {}, [[]], [{}], [None], [1], [0.5], ["x"], [True], [float("nan")], [2**70], [-1]),
    *([1, 2], ["a", "b"], [10**12, 10**12], [2**27], [2**28], {"a": 1}, {"": None}, {"a": []}),
    *(_nested(40), _nested(150), _nested(400, {}), [1] * 3000, ["x"] * 8, [0.5] * 8, [1] * 8),
]
"""Values to stand where others are expected."""

_SNIPPETS = [
    *(
        b"",
        b"\0",
        b"\xff",
        b"{",
        b"}",
        b"[",
        b"]",
        b'"',
        b",",
        b":",
        b"\\",
        b"-",
        b"9" * 20,
        b"1e999",
    ),
    *(b"9" * 5000, b"NaN", b"Infinity", b"null", b"[" * 2000, b'{"a":' * 2000, b'"\\ud800"'),
    *(b'"dtype":"F64"', b'"dtype":"BF16"', b'"F8_E4M3"', b'"C64"', b'"I8"', b'"BOOL"', b'"U64"'),
    *(b'"shape":[]', b'"shape":[0]', b'"shape":[18446744073709551615,2]', b"[0,0]", b"[8,0]"),
    *(b'"sha256"', b'"kind"', b'"__metadata__":{}', b"\x80\x05K\x01.", b"PK\x03\x04", b"\x93NUMPY"),
]


def raw_bytes(choose: Choices, data: bytes) -> bytes:
    """Bytes changed anywhere."""
    for _ in range(1 + choose.below(3)):
        at, end = sorted((choose.below(len(data) + 1), choose.below(len(data) + 1)))
        length, snippet = 1 + choose.below(64), choose.of(_SNIPPETS)
        options = {
            "flip": (bytes(byte ^ 1 << length % 8 for byte in data[at : at + 1]), at + 1),
            "byte": (bytes([length * 37 % 256]), at + 1),
            "cut off": (b"", len(data)),
            "drop": (b"", at + length),
            "put in": (snippet, at),
            "put over": (snippet, at + len(snippet)),
            "repeat": (data[at : at + length] * 3, at + length),
            "move": (data[end:] + data[at:end], len(data)),
        }
        what = choose.of(tuple(options))
        choose.say(f"{what} at {at} to {end} of {len(data)}, length {length}: {snippet!r:.20}")
        new, rest = options[what]
        data = data[:at] + new + data[rest:]
    return data


def safetensors_header(choose: Choices, data: bytes) -> bytes:
    """The format's own header changed, its length put right; the tensors' bytes stay."""
    length = struct.unpack("<Q", data[:8])[0]
    text = data[8 : 8 + length]
    if choose.below(2):
        text = raw_bytes(choose, text)
    else:
        header = json.loads(text)
        tensors = [name for name in header if name != "__metadata__"] or ["none"]
        name = choose.of(tensors)
        found = header.setdefault(name, {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]})
        field = choose.of(("dtype", "shape", "data_offsets", "name", "all"))
        value = choose.of(
            (
                *("F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2", "F4", "C64", "I8", "U8"),
                *("U64", "BOOL", "O", "", [0], [-1], [2**63], [2**64], [2**32, 2**32], [1, 1, 1]),
                *([0, 2**62], [0, 10**30], [8, 0], [0, 0], [], None, 1.5, _nested(200)),
            )
        )
        choose.say(f"{field} of {name} is {value!r:.60}")
        if field == "name":
            header[str(value)] = header.pop(name)
        elif field == "all":
            header[name] = value
        else:
            found[field] = value
        text = json.dumps(header).encode()
    lie = choose.of((0, 0, 0, 0, 0, 0, 0, 1, -1, 2**63, 10**8, 2**40))
    return struct.pack("<Q", (len(text) + lie) % 2**64) + text + data[8 + length :]


def _places(value: Any, path: tuple = ()) -> list[tuple]:
    """The paths of everything inside."""
    found = [path] if path else []
    if isinstance(value, dict):
        items: Any = value.items()
    elif isinstance(value, list):
        items = enumerate(value)
    else:
        return found
    for key, inner in items:
        found += _places(inner, (*path, key))
    return found


def _copied(value: Any) -> Any:
    return json.loads(json.dumps(value))


def _at(value: Any, path: tuple) -> Any:
    for key in path:
        value = value[key]
    return value


def json_value(choose: Choices, value: Any) -> Any:
    """JSON with something inside replaced, dropped, added or doubled."""
    value = _copied(value)
    for _ in range(1 + (choose.below(4) == 3) + (choose.below(8) == 7)):
        places = _places(value)
        if not places:
            break
        # Shallow places as often as deep ones, of which there are many more.
        depth = 1 + choose.below(max(map(len, places)))
        path = choose.of([place for place in places if len(place) == min(depth, 6)] or places)
        *outer, key = path
        holder, hostile = _at(value, tuple(outer)), _copied(choose.of(HOSTILE))
        what = choose.of(("replace",) * 6 + ("drop", "add", "double", "like another", "wrap"))
        choose.say(f"{what} {path}: {hostile!r:.60}")
        if what == "replace":
            holder[key] = hostile
        elif what == "drop":
            del holder[key]
        elif what == "add" and isinstance(holder, list):
            holder.insert(key, hostile)
        elif what == "add":
            holder[hostile if isinstance(hostile, str) else "extra"] = hostile
        elif what == "double" and isinstance(holder, list):
            holder.insert(key, _copied(holder[key]))
        elif what == "double":
            holder[key] = [holder[key], _copied(holder[key])]
        elif what == "like another":
            holder[key] = _copied(_at(value, choose.of(places)))
        else:
            holder[key] = [holder[key]]
    return value


_TYPES = ["?", "u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f2", "f4", "f8", "c8"]


def _filled(choose: Choices, array: np.ndarray) -> np.ndarray:
    """Some or all entries at an extreme."""
    array = array.copy()
    kind = array.dtype.kind
    if kind in "fc":
        largest = np.finfo(array.dtype).max
        value = choose.of((np.nan, np.inf, -np.inf, largest, -largest, 0, -1, 1e-45, 1e30, 0.5))
    elif kind == "b":
        value = choose.of((True, False))
    else:
        bounds = np.iinfo(array.dtype)
        value = choose.of((bounds.max, bounds.min, 0, 1, 2, 3, 127, max(-1, bounds.min)))
    if array.size:
        at = slice(None) if choose.below(2) else choose.below(array.size)
        with np.errstate(over="ignore"):
            array.reshape(-1)[at] = value
    return array


def _shaped(choose: Choices, array: np.ndarray) -> np.ndarray:
    """The array in another shape."""
    flat = array.reshape(-1)
    return choose.of(
        (
            lambda: flat[:-1],
            lambda: np.concatenate([flat, flat[:1]]),
            lambda: flat[:0],
            lambda: flat[:1].reshape(()) if flat.size else flat,
            lambda: flat[None],
            lambda: flat[:, None],
            lambda: np.zeros((0, *array.shape), array.dtype),
            lambda: np.zeros((*array.shape, 0), array.dtype),
            lambda: np.concatenate([np.atleast_1d(array)] * 2),
            lambda: array.T,
            lambda: np.zeros(200_000, array.dtype),
        )
    )()


def arrays(choose: Choices, found: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Arrays of another type, shape or value; dropped, added, renamed."""
    found = dict(found)
    for _ in range(1 + choose.below(2)):
        if not found:
            found["extra"] = np.zeros(3)
        name = choose.of(sorted(found))
        what = choose.of(("type", "shape", "values", "values", "drop", "add", "rename", "like"))
        before = found[name]
        if what == "type":
            with np.errstate(all="ignore"), warnings.catch_warnings(action="ignore"):
                found[name] = before.astype(choose.of(_TYPES))
        elif what == "shape":
            found[name] = _shaped(choose, before)
        elif what == "values":
            found[name] = _filled(choose, before)
        elif what == "drop":
            del found[name]
        elif what == "like":
            found[name] = found[choose.of(sorted(found))]
        else:
            new = choose.of(("extra", "", "a/b", "values", "unit_means", "normaliser_quantiles"))
            found[new] = before
            if what == "rename" and new != name:
                del found[name]
        after = found.get(name)
        choose.say(f"{what} of {name}: {None if after is None else (after.dtype, after.shape)}")
    return found


def with_checksum(choose: Choices, parts: Parts) -> bytes:
    """A file as a hostile writer makes it: anything inside, and the checksum of that."""
    header, kept = parts.header, parts.arrays
    which = choose.of(("header",) * 3 + ("arrays",) * 2 + ("both",))
    if which != "arrays":
        header = json_value(choose, header)
    if which != "header":
        kept = arrays(choose, kept)
    return files.encode(parts.kind, header, kept)


def package_file(choose: Choices, parts: Parts) -> bytes:
    """A file of the package's own format, mutated at one of three depths."""
    how: Callable[[Choices, bytes], bytes]
    how = choose.of((raw_bytes, safetensors_header, None, None, None, None))
    if how is None:
        return with_checksum(choose, parts)
    choose.say(how.__name__)
    return how(choose, files.encode(parts.kind, parts.header, parts.arrays))


_SHAPES = ((-1, 10), (0, 10), (5, 10**12), (2**62, 2**62), (), (50,), (5, 10, 1), (10**30, 10))


def chunk_file(choose: Choices, data: bytes) -> bytes:
    """A chunk: its bytes, or the format's header with a lie in it."""
    if choose.below(2):
        return raw_bytes(choose, data)
    described = {"descr": "<f2", "fortran_order": False, "shape": (5, 10)}
    key = choose.of(tuple(described))
    described[key] = choose.of(
        (
            *_SHAPES,
            "<f2",
            "|O",
            "<u2",
            "<f8",
            "V999999999",
            "",
            True,
            None,
            [("a", "<f2")],
            "(" * 90,
        )
    )
    choose.say(f"{key} is {described[key]!r:.60}")
    text = (repr(described) + "\n").encode()
    version = choose.of((b"\1\0", b"\2\0", b"\3\0", b"\4\0"))
    size = struct.pack("<H" if version == b"\1\0" else "<I", len(text))
    return b"\x93NUMPY" + version + size + text + data[128:]
