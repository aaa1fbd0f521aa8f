"""Any file of known truth as a ``Truth``: the project's own layout, or one with tables."""

from pathlib import Path

from safetensors import safe_open

from benchmarks.truth import files, latin_squares
from benchmarks.truth.files import Truth


def load(path: str | Path) -> Truth:
    """The model of a file, whose tensors tell its layout."""
    with safe_open(path, "pt") as file:
        names = {*file.keys()}
        if latin_squares.TABLES not in names:
            return files.read(path)
        tensors = {name: file.get_tensor(name) for name in names}
        return latin_squares.truth_of(Path(path), file.metadata(), tensors)
