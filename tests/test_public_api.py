import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest

import tl_modules as tlm
from tl_modules import cli

README = (Path(__file__).parents[1] / "README.md").read_text()


def public_members():
    for name in tlm.__all__:
        thing = getattr(tlm, name)
        yield name, thing
        if inspect.isclass(thing):
            for member, value in vars(thing).items():
                if not member.startswith("_") and (callable(value) or isinstance(value, property)):
                    yield f"{name}.{member}", value


@pytest.mark.parametrize(("name", "thing"), list(public_members()))
def test_every_public_name_says_what_it_is(name, thing):
    assert inspect.getdoc(thing)


@pytest.mark.parametrize("name", tlm.__all__)
def test_every_public_name_is_mentioned_in_the_docs(name):
    assert re.search(rf"\b{name}\b", README), f"{name} is not in README.md"


@pytest.mark.parametrize(
    "name", [name for name in tlm.__all__ if inspect.isfunction(getattr(tlm, name))]
)
def test_public_functions_document_arguments_results_and_refusals(name):
    text = inspect.getdoc(getattr(tlm, name))
    for section in ("Args:", "Returns:", "Raises:"):
        assert section in text
    for argument in inspect.signature(getattr(tlm, name)).parameters:
        assert f"{argument}:" in text


def test_importing_the_package_stays_light():
    code = (
        "import sys, tl_modules; heavy = {'transformer_lens', 'transformers', 'sklearn',"
        "'k_means_constrained', 'plotly', 'datasets', 'huggingface_hub'};"
        "print(sorted(heavy & set(sys.modules)))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


COMMANDS = ["demo", "collect", "discover", "evaluate", "test", "report"]


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
def test_the_readme_documents_every_command_and_option(name, capsys):
    assert f"tl-modules {name}" in README
    for option in re.findall(r"--[a-z][a-z-]+", shown_help([name], capsys)):
        assert option == "--help" or option in README, option
