"""Imports point one way: up the package's own listing of its layers."""

import ast

import pytest

from tests.rooms import PACKAGE, SOURCES, arrows, imports, room_of, rooms

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


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_file_imports_only_from_layers_above_its_own(path):
    here = room_of(path)
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
    assert users == {
        *("data/wheel_models.py", "data/models.py"),
        *("causal/patching.py", "models/past_tokens.py"),
    }


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_nothing_is_unpickled_or_evaluated(path):
    assert not set(imports(path)) & {"pickle", "marshal", "shelve", "dill", "cloudpickle", "joblib"}
    calls = {
        node.func.id
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    }
    assert not calls & {"eval", "exec"}


def test_the_rooms_and_the_arrows_between_them_stay_few():
    assert len(rooms()) <= 28
    assert len(arrows()) <= 150
    assert {room for room in rooms() if (PACKAGE / f"{room}.py").exists()} == {
        *("__init__", "__main__", "cli", "errors", "units")
    }


def test_every_room_has_its_layer():
    assert rooms() == set(RANK)
