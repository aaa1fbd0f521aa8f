"""Ctrl-C in the middle of a command, and the same command again."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest

import tl_modules as tlm
from tests.conftest import LEGACY, WORDS, unsaid
from tl_modules import cli
from tl_modules.activations import batch_runner
from tl_modules.commands import collect, demo
from tl_modules.commands import test as commands_test

ROOT = Path(__file__).parents[2]
RUN = """
import signal, sys, time
# A shell starts background jobs, and so these tests' children, with the signal ignored.
signal.signal(signal.SIGINT, signal.default_int_handler)
from tests.conftest import tiny_model
from tl_modules import cli
from tl_modules.activations import batch_runner
from tl_modules.commands import collect
model, values, runs = tiny_model(), batch_runner.batch_values, []
def slow(*args):
    runs.append(None)
    time.sleep(0.05 if len(runs) <= 8 else 2)  # in the third piece, wait for the signal
    return values(*args)
if sys.argv[1] == "slow":
    batch_runner.batch_values = slow
collect.load_model = lambda name, **placed: model
sys.exit(cli.main(sys.argv[2:]))
"""


@pytest.fixture
def questions(tmp_path, monkeypatch):
    """Sixty prompts in a file."""
    monkeypatch.chdir(tmp_path)
    texts = [" ".join(WORDS[(k * 7 + j) % 40] for j in range(k % 11 + 2)) for k in range(60)]
    frame = pd.DataFrame({"prompt": texts, "category": ["x", "y"] * 30})
    frame.to_json("questions.jsonl", orient="records", lines=True)
    return frame


def started(speed, *words):
    return subprocess.Popen(
        [sys.executable, "-c", RUN, speed, *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )


def ended(process):
    """A process's status, and what it said to standard error."""
    _, said = process.communicate()
    return process.returncode, said


@pytest.mark.slow
@pytest.mark.skipif(LEGACY, reason="seconds long, and it needs nothing of TransformerLens")
@pytest.mark.parametrize("out", ["acts.safetensors", "acts"])
def test_an_interrupted_collection_resumes_and_writes_the_same_bytes(questions, tmp_path, out):
    words = ("collect", "--prompts", "questions.jsonl", "--batch-size", "4", "--no-progress")
    undisturbed = Path(f"undisturbed{Path(out).suffix}")
    assert ended(started("fast", *words, "--out", str(undisturbed))) == (0, "")
    folder = tmp_path / (f"{out}.partial" if Path(out).suffix else out)
    process = started("slow", *words, "--out", out)
    while not list(folder.glob("piece-*-0000016.safetensors")):  # the second piece of 16 prompts
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    said = "tl-modules: Interrupted after 32 of 60 prompts; run the same command to resume\n"
    assert ended(process) == (130, said)
    assert not (tmp_path / "acts.safetensors").exists()
    assert ended(started("fast", *words, "--out", out)) == (0, "")
    for path in [undisturbed] if undisturbed.is_file() else undisturbed.glob("[!.]*"):
        other = tmp_path / out if undisturbed.is_file() else tmp_path / out / path.name
        assert path.read_bytes() == other.read_bytes()
    assert not folder.exists() or folder.name == out


@pytest.fixture
def stopped(monkeypatch):
    """Ctrl-C at the n-th batch; and how many prompts ran."""
    values, ran = batch_runner.batch_values, []

    def at(n_batches):
        def counted(model, batch, *args):
            if len(ran) == n_batches:
                raise KeyboardInterrupt
            ran.append(len(batch.rows))
            return values(model, batch, *args)

        ran.clear()
        monkeypatch.setattr(batch_runner, "batch_values", counted)
        return ran

    return at


WORDS_OF = ("--prompts", "questions.jsonl", "--batch-size", "5", "--no-progress")


@pytest.mark.parametrize("weight", ["activation", "attribution"])
@pytest.mark.parametrize("units", ["mlp", "mlp+attn_heads"])
def test_the_matrix_is_that_of_collect_bit_for_bit(
    questions, model, monkeypatch, stopped, weight, units
):
    monkeypatch.setattr(collect, "load_model", lambda name, **_placed: model)
    words = ["collect", *WORDS_OF, "--out", "acts.safetensors", "--weight", weight]
    words += ["--units", units]
    ran = stopped(7)
    assert cli.main(words) == 130
    assert sum(ran) == 35
    ran = stopped(-1)
    assert cli.main(words) == 0
    assert sum(ran) == 60 - 20  # a piece is of whole batches: the first 20 prompts were kept
    found = tlm.ActivationMatrix.load("acts.safetensors")
    expected = tlm.collect(
        model, questions, batch_size=5, max_tokens=128, weight=weight, units=units, progress=False
    )
    assert found.values.tobytes() == expected.values.tobytes()
    assert found.unit_means.tobytes() == expected.unit_means.tobytes()
    assert found.samples.equals(expected.samples)
    assert (found.model_name, found.reading) == (expected.model_name, expected.reading)


def test_other_settings_are_not_mixed_with_what_was_kept(
    questions, model, monkeypatch, stopped, capsys
):
    monkeypatch.setattr(collect, "load_model", lambda name, **_placed: model)
    words = ["collect", *WORDS_OF, "--out", "acts.safetensors"]
    stopped(7)
    assert cli.main(words) == 130
    stopped(-1)
    assert cli.main([*words, "--tokens", "content"]) == 1
    assert "acts.safetensors.partial' was begun with other settings" in capsys.readouterr().err
    assert cli.main(words) == 0


def test_a_folder_of_that_name_that_is_someone_elses_stays(questions, capsys, tmp_path):
    (tmp_path / "acts.safetensors.partial").mkdir()
    (tmp_path / "acts.safetensors.partial" / "mine.txt").write_text("mine")
    assert cli.main(["collect", *WORDS_OF, "--out", "acts.safetensors"]) == 1
    assert "it holds other files" in capsys.readouterr().err
    assert (tmp_path / "acts.safetensors.partial" / "mine.txt").read_text() == "mine"


@unsaid
def test_a_stopped_demo_does_not_collect_again(questions, model, monkeypatch, stopped, capsys):
    monkeypatch.setattr(demo, "load_model", lambda name: model)
    monkeypatch.setattr(demo, "load_prompts", lambda: questions)
    words = ["demo", "--out", "out", "-k", "2", "--n-controls", "1", "--no-progress"]
    with monkeypatch.context() as patched:
        patched.setattr(demo, "discover", lambda *args, **options: stop())
        assert cli.main(words) == 130
    assert "run the same command to resume" in capsys.readouterr().err
    assert not Path("out/acts.safetensors").exists()
    ran = stopped(-1)
    assert cli.main(words) == 0
    assert sum(ran) == 0


def stop():
    raise KeyboardInterrupt


def test_a_stopped_evaluation_and_test_say_what_is_kept(
    questions, model, monkeypatch, stopped, capsys
):
    for module in (collect, commands_test):
        monkeypatch.setattr(module, "load_model", lambda name, **_placed: model)
    words = ["evaluate", *WORDS_OF, "--out", "out", "-k", "2", "--methods", "iterd"]
    stopped(9)
    assert cli.main(words) == 130
    assert "after 40 of 60 prompts; run the same command to resume" in capsys.readouterr().err
    ran = stopped(-1)
    with monkeypatch.context() as patched:
        patched.setattr("tl_modules.commands.evaluate.compare_methods", lambda *_, **__: stop())
        assert cli.main(words) == 130
    assert sum(ran) == 20
    said = capsys.readouterr().err
    assert "no run was finished, and the same command starts over" in said
    assert "--acts out/acts.safetensors" in said
    acts = tlm.ActivationMatrix.load("out/acts.safetensors").select(range(40))
    modules = tlm.discover(acts, 2, progress=False)
    modules.save("found.safetensors")
    monkeypatch.setattr(commands_test, "module_effects", lambda *_, **__: stop())
    words = ["test", "found.safetensors", *WORDS_OF, "--out", "tested", "--n-controls", "1"]
    assert cli.main(words) == 130
    assert capsys.readouterr().err == "tl-modules: Interrupted; no test was finished\n"
