"""Imports point one way: up the package's own listing of its layers."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "tl_modules"

# A file imports only from lines above its own; files on one line may not import each other,
# except inside one folder.
LAYERS = [
    "errors",
    "runtime saving",
    "tables",
    "models",
    "units",
    "interventions",
    "activations saes",
    "sharing",
    "modules",
    "discovery",
    "evaluation",
    "causal interpret",
    "related thoughts training",
    "plots",
    "report",
    "data",
    "commands",
    "cli",
    "__main__ __init__",
]
RANK = {name: rank for rank, line in enumerate(LAYERS) for name in line.split()}
NEVER_MEET = {"discovery", "causal", "interpret"}

SOURCES = sorted(PACKAGE.rglob("*.py"))


def part(path):
    """The layer that a file belongs to."""
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


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_file_imports_only_from_layers_above_its_own(path):
    here = part(path)
    for name in imports(path):
        if not name.startswith("tl_modules."):
            continue
        there = name.split(".")[1]
        if there != here:
            assert RANK[there] < RANK[here], f"{here} imports {name}"
            assert not {here, there} <= NEVER_MEET


def test_discovery_never_sees_a_model():
    for path in (PACKAGE / "discovery").glob("*.py"):
        found = {name.split(".")[1] for name in imports(path) if name.startswith("tl_modules.")}
        assert not found & {"model", "hooks", "tokens"}


def test_transformer_lens_is_imported_in_few_places_and_only_when_asked():
    users = {
        str(path.relative_to(PACKAGE))
        for path in SOURCES
        if any(name.split(".")[0] == "transformer_lens" for name in imports(path))
    }
    assert users == {"data/wheel_models.py", "data/models.py", "causal/patching.py"}


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_nothing_is_unpickled_or_evaluated(path):
    assert not set(imports(path)) & {"pickle", "marshal", "shelve", "dill", "cloudpickle", "joblib"}
    calls = {
        node.func.id
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    }
    assert not calls & {"eval", "exec"}
