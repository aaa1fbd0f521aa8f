"""Every command line of the documentation runs as it stands, in order, on small data."""

import re
import shlex
from pathlib import Path

import pytest

import tl_modules as tlm
from tests.conftest import long_once, unsaid
from tests.test_docs import small_models  # noqa: F401 - a fixture
from tl_modules import cli
from tl_modules.commands import collect, core, demo, report
from tl_modules.commands import test as commands_test
from tl_modules.data import load_prompts

pytestmark = [pytest.mark.slow, long_once]
ROOT = Path(__file__).parents[1]
PAGES = sorted(
    path.relative_to(ROOT).as_posix() for path in (*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"))
)
NOT_RUN = {
    "make test": "it runs this",
    "python3 -m venv": "an environment: CI sets one up with `make setup`",
    "pip install": "packages: CI installs them with `make setup`",
}
"""Lines that cannot run here, by how they begin, and why."""
STAND_INS = {
    r"torchrun .*?-m tl_modules": "tl-modules",
    "/shared/": "shared/",
}
"""Several processes are one here (tests/commands/test_several.py starts several), and what two
machines share is a folder beside the others."""
SMALL_MODELS = {
    "Qwen/Qwen3-0.6B": "gemma-3-270m",
    "meta-llama/Llama-3.1-70B": "gemma-3-270m",
    "demo": "SmolLM2-135M-Instruct",
    "SmolLM2-135M-Instruct": "SmolLM2-135M-Instruct",
}
"""Models of hubs and wheels, and which tiny one stands in."""


def lines(page):
    """A page's commands, those over several lines joined, without comments."""
    text = (ROOT / page).read_text()
    blocks = re.findall(r"^( *)```(?:sh|bash|console)\n(.*?)^\1```", text, re.DOTALL | re.MULTILINE)
    joined = "\n".join(block for _, block in blocks).replace("\\\n", " ")
    found = (re.sub(r"(^|\s)#.*", "", line).strip() for line in joined.splitlines())
    return [line for line in found if line]


TESTED = [page for page in PAGES if lines(page)]


def questions():
    """Sixty questions of four categories: what a page calls its prompts."""
    prompts = load_prompts()
    chosen = prompts[prompts["category"].isin(prompts["category"].unique()[:4])]
    return (
        chosen.groupby("category").head(15).sample(frac=1, random_state=0)[["prompt", "category"]]
    )


def saved_modules(folder, model):
    """What `discover` would have left there."""
    folder.mkdir(parents=True)
    acts = tlm.collect(model, questions(), max_tokens=16, progress=False)
    tlm.discover(acts, 3).save(folder / "modules.safetensors")


def as_run(line):
    """A line with its stand-ins; ``make demo`` by its recipe."""
    if line.startswith("make demo"):
        return re.search(r"^demo:.*\n\t\$\(BIN\)/(.*)", (ROOT / "Makefile").read_text(), re.M)[1]
    for original, stand_in in STAND_INS.items():
        line = re.sub(original, stand_in, line)
    return line


@unsaid
@pytest.mark.parametrize("page", TESTED)
def test_every_command_line_of_a_page_runs(page, small_models, tmp_path, monkeypatch, capsys):  # noqa: F811
    def load(name, **_placed):
        return small_models[SMALL_MODELS[name]]

    for module in (collect, core, demo, report, commands_test):
        monkeypatch.setattr(module, "load_model", load)
    monkeypatch.chdir(tmp_path)
    frame = questions()
    for name in ("questions", "selected", "held-out"):  # two files of different prompts
        part = frame.iloc[1::2] if name == "held-out" else frame
        part = frame.iloc[::2] if name == "selected" else part
        part.to_json(f"{name}.jsonl", orient="records", lines=True)
    frame.rename(columns={"prompt": "question", "category": "topic"}).to_csv(
        "questions.csv", index=False
    )
    saved_modules(Path("out/mine"), small_models["SmolLM2-135M-Instruct"])
    for line in lines(page):
        if any(line.startswith(beginning) for beginning in NOT_RUN):
            continue
        program, *words = shlex.split(as_run(line))
        assert program == "tl-modules", f"{page}: a line that is neither run nor listed: {line}"
        status = cli.main([*words, "--no-progress"])
        assert status == 0, f"{page}: {line}\n{capsys.readouterr().err}"


def test_lines_that_are_not_run_are_in_the_documentation():
    everything = [line for page in TESTED for line in lines(page)]
    assert {"docs/reference/command-line.md", "docs/how-to/own-prompts.md"} <= set(TESTED)
    for beginning in NOT_RUN:
        assert any(line.startswith(beginning) for line in everything), beginning


def test_the_page_of_the_pipeline_leaves_out_what_was_held_out(small_models, tmp_path, monkeypatch):  # noqa: F811
    """The modules are of 48 samples, the activations of 60, and the page is of the 48."""
    model = small_models["SmolLM2-135M-Instruct"]
    monkeypatch.setattr(collect, "load_model", lambda _, **_placed: model)
    monkeypatch.chdir(tmp_path)
    questions().to_json("questions.jsonl", orient="records", lines=True)
    for words in lines("docs/reference/command-line.md")[:2]:
        assert cli.main([*shlex.split(words)[1:], "--no-progress"]) == 0
    assert cli.main(["report", ".", "--no-progress"]) == 0
    assert len(tlm.ActivationMatrix.load("acts.safetensors").samples) == 60
    assert len(tlm.ModuleSet.load("modules.safetensors").samples) == 48
    page = Path("report.html").read_text()
    assert 'data-figure="data-activations"' in page
    assert "48 prompts by the modules" in page
