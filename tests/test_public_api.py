import inspect
import re
import subprocess
import sys
from pathlib import Path
from types import NoneType, UnionType
from typing import Union, get_args, get_origin

import pytest

import tl_modules as tlm
from tests.public import FACES, FUNCTIONS, HOMES, OF_DATA, PUBLIC
from tl_modules import cli

DOCS = Path(__file__).parents[1] / "docs"
REFERENCE = "".join(path.read_text() for path in sorted((DOCS / "reference").glob("*.md")))
COMMAND_LINE = (DOCS / "reference" / "command-line.md").read_text()


def public_members():
    for name, thing in PUBLIC.items():
        yield name, thing
        if inspect.isclass(thing):
            for member, value in vars(thing).items():
                if not member.startswith("_") and (callable(value) or isinstance(value, property)):
                    yield f"{name}.{member}", value


@pytest.mark.parametrize(("name", "thing"), list(public_members()))
def test_every_public_name_says_what_it_is(name, thing):
    assert inspect.getdoc(thing)


@pytest.mark.parametrize("name", PUBLIC)
def test_every_public_name_is_in_the_reference_once(name):
    rows = re.findall(rf"^\| [^|]*`{name}`[^|]* \|", REFERENCE, flags=re.MULTILINE)
    assert len(rows) == 1, f"{name} should be in one table of docs/reference"
    generated = re.findall(rf"^\.\. auto\w+:: {name}$", REFERENCE, flags=re.MULTILINE)
    assert len(generated) == 1, f"docs/reference should have one autodoc directive of {name}"


@pytest.mark.parametrize("name", [name for name in FUNCTIONS if name not in OF_DATA])
def test_public_functions_document_arguments_results_and_refusals(name):
    text = inspect.getdoc(FUNCTIONS[name])
    for section in ("Args:", "Returns:", "Raises:"):
        assert section in text
    for argument in inspect.signature(FUNCTIONS[name]).parameters:
        assert f"{argument}:" in text


def test_what_the_reference_documents_is_what_the_faces_export():
    documented: dict[str, set[str]] = {}
    room = None
    for directive, name in re.findall(r"^\.\. (\w+):: ([\w.]+)$", REFERENCE, flags=re.MULTILINE):
        if directive == "currentmodule":
            room = name.removeprefix("tl_modules").removeprefix(".")
        elif room and directive.startswith("auto"):
            documented.setdefault(room, set()).add(name)
    assert documented == {
        room: set(face.__all__) for room, face in FACES.items() if hasattr(face, "__all__")
    }


def test_a_face_says_in_two_sentences_what_its_room_is_for():
    for name, face in FACES.items():
        text = " ".join(inspect.getdoc(face).split())
        assert len(re.findall(r"[.](?: |$)", text)) == 2, name
        assert not set(vars(face)) & {"__getattr__"}


def test_completion_offers_what_the_package_exports_and_no_more():
    assert dir(tlm) == sorted(tlm.__all__)
    for name in tlm.__all__:
        thing = getattr(tlm, name)
        assert inspect.ismodule(thing) or PUBLIC[name] is thing
    spaces = {name for name in tlm.__all__ if inspect.ismodule(getattr(tlm, name))}
    assert spaces == {"plots", "related", "thoughts", "training"}
    assert all(dir(getattr(tlm, name)) == sorted(getattr(tlm, name).__all__) for name in spaces)
    assert not [name for name in tlm.__all__ if HOMES.get(name) in spaces]


def test_importing_the_package_stays_light():
    code = (
        "import sys, tl_modules; heavy = {'transformer_lens', 'transformers', 'sklearn',"
        "'k_means_constrained', 'plotly', 'datasets', 'huggingface_hub'};"
        "print(sorted(heavy & set(sys.modules)))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


COMMANDS = ["demo", "collect", "discover", "evaluate", "test", "core", "report"]


def shown_help(words, capsys):
    with pytest.raises(SystemExit) as stopped:
        cli.main([*words, "--help"])
    assert stopped.value.code == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("words", [[], *([name] for name in COMMANDS)])
def test_every_command_has_help(words, capsys):
    assert "usage: tl-modules" in shown_help(words, capsys)


def test_the_list_of_commands_is_whole(capsys):
    assert re.findall(r"^    (\w+) ", shown_help([], capsys), flags=re.MULTILINE) == COMMANDS


@pytest.mark.parametrize("name", COMMANDS)
def test_the_reference_documents_every_command_and_option(name, capsys):
    of_all, *sections = re.split(r"^## ", COMMAND_LINE, flags=re.MULTILINE)
    (section,) = (text for text in sections if text.startswith(f"`tl-modules {name}`\n"))
    documented = set(re.findall(r"`(--[a-z][a-z-]+)`", of_all))
    own = set(re.findall(r"^\| .*?`(--[a-z][a-z-]+)` \|", section, flags=re.MULTILINE))
    taken = set(re.findall(r"--[a-z][a-z-]+", shown_help([name], capsys)))
    assert taken <= documented | own
    assert own <= taken, "the reference has options that the command does not take"


FREE_TEXTS = {
    *("separator", "category", "concept", "label", "prompt", "hook_name", "model_name", "name"),
    *("language", "unit", "model", "site", "pattern", "apart_from", "own_category"),
    *("repo_id", "revision", "commit_message", "endpoint", "licence", "system", "model_id"),
    "verdict_sentence",
    *("other_prompt", "annotator", "present", "absent"),
}
"""Parameters that take any text: a name, a label, a prompt's part."""

RESULT_FIELDS = {"Parts.kind", "ModuleMatch.by", "ModuleSet.method", "ScoredLabels.title"}
RESULT_FIELDS |= {"InterventionPlan.question", "InterventionPlan.answer"}
"""Fields of results, which functions fill in."""


def is_any_text(annotation):
    """Whether an annotation is ``str``, or that or None."""
    parts = get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)
    return str in parts and set(parts) <= {str, NoneType}


AS_TRANSFORMER_LENS_HAS_THEM = {"HookedModel", "SplicedModel"}


def signatures():
    for name, thing in PUBLIC.items():
        if name in AS_TRANSFORMER_LENS_HAS_THEM:
            continue
        if inspect.isfunction(thing):
            yield name, thing
        elif inspect.isclass(thing):
            for member, value in inspect.getmembers(thing):  # inherited ones too
                function = getattr(value, "__func__", value)
                if inspect.isfunction(function) and (member[0] != "_" or member == "__init__"):
                    yield f"{name}.{member}".removesuffix(".__init__"), function


@pytest.mark.parametrize(("name", "function"), list(signatures()))
def test_a_parameter_that_is_a_choice_is_a_literal_and_no_options_are_hidden(name, function):
    for parameter in inspect.signature(function).parameters.values():
        hint = parameter.annotation
        if f"{name}.{parameter.name}" not in RESULT_FIELDS and is_any_text(hint):
            assert parameter.name in FREE_TEXTS, "a choice should be a Literal"
        assert parameter.kind != parameter.VAR_KEYWORD, "name the options"
