"""The package's rooms (the files and folders directly inside it) and the arrows between them.

An arrow is an import from one room into another. ``python -m tests.rooms`` prints the counts that
CONTRIBUTING names, and the longest file and function.
"""

import ast
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "tl_modules"
SOURCES = sorted(PACKAGE.rglob("*.py"))


def room_of(path):
    """The room that a file belongs to."""
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def imports(path):
    """Modules that a file imports, anywhere in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            yield node.module
            if node.module == "tl_modules":
                yield from (f"tl_modules.{alias.name}" for alias in node.names)


def arrows():
    """Pairs of rooms of which the first imports from the second."""
    pairs = {
        (room_of(path), name.split(".")[1])
        for path in SOURCES
        for name in imports(path)
        if name.startswith("tl_modules.")
    }
    return {(here, there) for here, there in pairs if here != there}


def rooms():
    """The names of the rooms."""
    return {room_of(path) for path in SOURCES}


def length(function):
    """A function's lines without its docstring."""
    first = function.body[0]
    is_docstring = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)
    said = first.end_lineno - first.lineno + 1 if is_docstring else 0
    return function.end_lineno - function.lineno + 1 - said


def longest_function():
    """The length of the longest function, and its place."""
    return max(
        (length(node), f"{path.relative_to(PACKAGE)}: {node.name}")
        for path in SOURCES
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef)
    )


if __name__ == "__main__":
    longest_file = max((len(path.read_text().splitlines()), path.name) for path in SOURCES)
    print(f"{len(rooms())} rooms, {len(arrows())} arrows, {len(SOURCES)} files")
    print(f"longest file {longest_file}, longest function {longest_function()}")
