import re
from pathlib import Path

import pytest

import tl_modules as tlm
from tests.rooms import rooms
from tests.tables.test_verdicts import effects_of

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def test_the_readme_links_to_files_that_are_there():
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", README):
        assert (ROOT / target).exists(), target


def test_the_map_of_the_code_names_files_that_are_there_and_every_room():
    text = (ROOT / "CONTRIBUTING.md").read_text()
    for path in re.findall(r"`((?:tl_modules|tests|docs)/[\w./-]+)`", text):
        assert (ROOT / path).exists(), path
    table = text[text.index("| room |") : text.index("### The path of one call")]
    named = {
        name.removesuffix(".py").removesuffix("/") for name in re.findall(r"`([\w./]+)`", table)
    }
    assert rooms() - {"__init__", "__main__"} <= named


def test_the_readme_quotes_the_verdict_as_it_is_said():
    rows = re.findall(r"^\| [\w, ()]+ \| 461 \|.*\| ([\d.]+) \|$", README, flags=re.MULTILINE)
    corrected = [float(row) for row in rows]
    # With 29 controls, p of a core that exceeds them all is 1 / 30 before correction.
    effects = effects_of(*({"p": 1 / 30 if p <= 0.05 else p, "n": 29} for p in corrected))
    sentence = tlm.verdict_sentence(effects, of="cores")
    assert " ".join(README.split()).count(sentence) == 2


@pytest.mark.slow
def test_the_readmes_example_runs(demo_model, monkeypatch, tmp_path, capsys):
    # The model that is already loaded, so as not to load it twice.
    monkeypatch.setattr("tl_modules.data.load_demo_model", lambda: demo_model)
    monkeypatch.chdir(tmp_path)
    (example,) = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    names = {}
    exec(compile(example, "README.md", "exec"), names)
    printed = capsys.readouterr().out
    assert printed.startswith(tlm.verdict_sentence(names["effects"]) + "\ncategory ")
    assert names["acts"].values.shape == (7 * 10, 30 * 1536)
    assert len(names["effects"]) == 7 * 7
    saved = tlm.ModuleSet.load("modules.safetensors")
    assert saved.objective == names["modules"].objective
    assert not any(point._forward_hooks for point in demo_model.hook_dict.values())
