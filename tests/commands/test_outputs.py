"""A command writes what was named, and replaces nothing that it did not write."""

import json

import pandas as pd
import pytest

import tl_modules as tlm
from tests.conftest import unsaid
from tl_modules import cli
from tl_modules.activations.store_folder import delete_store
from tl_modules.commands import collect, demo, report
from tl_modules.commands import test as commands_test


@pytest.fixture
def here(model, prompts, tmp_path, monkeypatch):
    """A folder with a user's own prompts, quiz.csv; the tiny model is the one that runs."""
    for module in (collect, demo, report, commands_test):
        monkeypatch.setattr(module, "load_model", lambda name, **_placed: model)
    monkeypatch.setattr(demo, "load_prompts", lambda: prompts)
    monkeypatch.setattr(demo, "CHOOSING", 2)
    monkeypatch.setattr(demo, "TESTING", 2)
    monkeypatch.setattr(demo, "SIZES", (3,))
    monkeypatch.chdir(tmp_path)
    prompts.assign(source="mine").to_csv("quiz.csv", index=False)
    return tmp_path


@pytest.fixture
def never(monkeypatch):
    """From here on no model may be loaded."""
    for module in (collect, demo, report, commands_test):
        monkeypatch.setattr(
            module, "load_model", lambda name, **_placed: pytest.fail("the model was loaded")
        )


def run(*words):
    return cli.main([*map(str, words), "--no-progress"])


def gather(*words):
    return run("collect", "--prompts", "quiz.csv", "--max-tokens", "9", *words)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_collect_and_discover_write_the_file_that_was_named_alone(here):
    own = (here / "quiz.csv").read_bytes()
    assert gather("--out", "quiz.safetensors") == 0
    assert run("discover", "quiz.safetensors", "-k", "2", "--out", "found.safetensors") == 0
    assert names(here) == ["found.safetensors", "quiz.csv", "quiz.safetensors"]
    assert (here / "quiz.csv").read_bytes() == own


@pytest.mark.parametrize("ending", ["csv", "json"])
def test_tables_are_written_where_they_are_named(here, ending, capsys):
    samples, table = f"samples.{ending}", f"table.{ending}"
    for _ in range(2):  # the same commands again replace what they wrote
        assert gather("--out", "acts.safetensors", "--samples", samples) == 0
        words = ("discover", "acts.safetensors", "-k", "2", "--out", "found.safetensors")
        assert run(*words, "--table", table) == 0
    read = pd.read_csv if ending == "csv" else pd.read_json
    expected = tlm.ActivationMatrix.load("acts.safetensors").samples
    assert read(samples)["prompt"].tolist() == expected["prompt"].tolist()
    assert read(table)["n_units"].sum() == 36
    # Changed since, it is the user's own.
    (here / samples).write_text("mine")
    (here / table).write_text("mine")
    assert gather("--out", "acts.safetensors", "--samples", samples) == 1
    assert f"'{samples}' exists, and no record shows that" in capsys.readouterr().err
    assert run(*words, "--table", table) == 1
    assert f"'{table}' exists, and no record shows that" in capsys.readouterr().err
    assert (here / samples).read_text() == (here / table).read_text() == "mine"


def test_what_another_wrote_is_refused_before_the_model_loads(here, acts, never, capsys):
    acts.save("acts.safetensors")  # hours of work in a notebook, say
    before = (here / "acts.safetensors").read_bytes()
    assert gather("--out", "acts.safetensors") == 1
    assert "'acts.safetensors' exists" in capsys.readouterr().err
    assert gather("--out", "acts", "--samples", "quiz.csv") == 1
    assert "this command reads" in capsys.readouterr().err
    assert run("discover", "acts.safetensors", "--out", "acts.safetensors", "--force") == 1
    assert "this command reads" in capsys.readouterr().err
    assert gather("--out", "quiz.csv") == 1
    assert "--out should end in .safetensors" in capsys.readouterr().err
    assert gather("--out", "acts.safetensors", "--samples", "acts.safetensors") == 1
    assert "A table should end in .csv or .json" in capsys.readouterr().err
    (here / "file").write_text("mine")
    assert gather("--out", "file") == 1
    assert "A store should be a folder; 'file' is a file" in capsys.readouterr().err
    assert (here / "acts.safetensors").read_bytes() == before
    assert names(here) == ["acts.safetensors", "file", "quiz.csv"]


def test_force_replaces(here, acts):
    acts.save("acts.safetensors")
    assert gather("--out", "acts.safetensors", "--force") == 0
    assert "source" in tlm.ActivationMatrix.load("acts.safetensors").samples


@pytest.mark.parametrize("name", ["effects.csv", "summary.csv", "settings.json"])
def test_test_replaces_its_own_files_alone(here, name, modules, capsys, request):
    seen = pd.DataFrame({"prompt": ["the cat", "a dog"], "category": ["code", "animal"]})
    tlm.discover(tlm.collect(request.getfixturevalue("model"), seen), 2).save("found.safetensors")
    words = ("test", "found.safetensors", "--prompts", "quiz.csv", "--out", ".")
    words += ("--n-controls", "1", "--per-category", "1")
    (here / name).write_text("mine")
    assert run(*words) == 1
    assert f"'{name}' exists" in capsys.readouterr().err
    assert (here / name).read_text() == "mine"
    assert names(here) == sorted(["found.safetensors", "quiz.csv", name])
    assert run(*words, "--force") == 0
    assert run(*words) == 0  # all are its own now
    (here / name).write_text("mine again")
    assert run(*words) == 1
    assert (here / name).read_text() == "mine again"


def test_evaluate_keeps_what_others_wrote(here, never, capsys):
    (here / "runs.csv").write_text("mine")
    assert run("evaluate", "--prompts", "quiz.csv", "--out", ".", "-k", "2") == 1
    assert "'runs.csv' exists" in capsys.readouterr().err
    assert (here / "runs.csv").read_text() == "mine"


@unsaid
def test_the_demo_runs_again_and_the_report_does_not_replace_its_page(here, capsys):
    words = ("demo", "--out", "out", "-k", "2", "--n-controls", "1")
    assert run(*words) == 0
    assert run(*words) == 0
    assert not (here / "out" / "acts.safetensors.partial").exists()
    assert run("report", "out") == 1
    assert "report.html' exists" in capsys.readouterr().err
    assert run("report", "out", "--out", "page.html") == 0
    assert run("report", "out", "--out", "page.html") == 0
    page = here / "page.html"
    page.write_bytes(page.read_bytes().replace(b"<h1", b"<h1 id='mine'"))
    assert run("report", "out", "--out", "page.html") == 1
    assert b"id='mine'" in page.read_bytes()
    assert run("report", "out", "--out", "out/modules.safetensors", "--force") == 1
    assert "this command reads" in capsys.readouterr().err


@pytest.mark.parametrize(
    "record", ["", "[]", '{"runs.csv": 3}', '{"runs.csv": {"command": "evaluate", "sha256": [3]}}']
)
def test_a_record_that_was_altered_allows_nothing(here, record, never, capsys):
    (here / ".tl-modules.json").write_text(record)
    (here / "runs.csv").write_text("mine")
    assert run("evaluate", "--prompts", "quiz.csv", "--out", ".", "-k", "2") == 1
    assert "'runs.csv' exists" in capsys.readouterr().err


@unsaid
def test_the_record_says_who_wrote_what(here):
    assert run("demo", "--out", "out", "-k", "2", "--n-controls", "1") == 0
    record = json.loads((here / "out" / ".tl-modules.json").read_text())
    assert set(record) == set(demo.FILES)
    assert {entry["command"] for entry in record.values()} == {"demo"}


@pytest.mark.parametrize("name", [".env", ".git", "notes.txt", ".mine.part", "chunk-plan.npy"])
def test_a_partial_folder_of_other_files_is_refused(here, never, name, capsys):
    folder = here / "acts.safetensors.partial"
    folder.mkdir()
    (folder / name).write_text("mine")
    assert gather("--out", "acts.safetensors") == 1
    assert f"it holds other files, such as {name!r}" in capsys.readouterr().err
    assert (folder / name).read_text() == "mine"


def test_files_put_beside_a_partial_store_stay(here, model):
    folder = here / "acts.safetensors.partial"
    tlm.collect(model, pd.read_csv("quiz.csv"), max_tokens=9, dtype="float32", store=folder)
    (folder / ".git").mkdir()
    own = ["notes.txt", ".env", ".mine.part", "done-notes.safetensors", "piece-of-mine.safetensors"]
    for name in own:
        (folder / name).write_text("mine")
    delete_store(folder)
    assert names(folder) == sorted([".git", *own])


def test_a_run_deletes_no_other_files(here, model):
    folder = here / "acts"
    tlm.collect(model, pd.read_csv("quiz.csv"), max_tokens=9, store=folder)
    own = [".mine.part", "done-notes.safetensors", "piece-of-mine.safetensors"]
    for name in own:
        (folder / name).write_text("mine")
    assert gather("--out", "acts") == 0
    assert set(own) < set(names(folder))


@pytest.mark.parametrize("words", [["--out", "."], ["--out", "./"], ["--store", "--out", "/"]])
def test_an_output_without_a_name_is_refused(here, never, words, capsys):
    assert gather(*words) == 1
    assert "--out should name a file, or a folder for a store" in capsys.readouterr().err


def test_the_samples_of_a_store_are_replaced_by_the_same_command(here, capsys):
    for _ in range(2):
        assert gather("--out", "st", "--samples", "s.csv") == 0
    assert len(pd.read_csv("s.csv")) == len(pd.read_csv("quiz.csv"))
    (here / "s.csv").write_text("mine")
    assert gather("--out", "st", "--samples", "s.csv") == 1
    assert "no record shows that 'tl-modules collect' wrote this version" in capsys.readouterr().err
    assert (here / "s.csv").read_text() == "mine"


def test_discover_refuses_another_ending(here, acts, capsys):
    acts.save("acts.safetensors")
    assert run("discover", "acts.safetensors", "-k", "2", "--out", "z.csv") == 1
    assert "--out should end in .safetensors; got 'z.csv'" in capsys.readouterr().err
    assert not (here / "z.csv").exists()


def test_a_refused_evaluation_leaves_no_folder(here, acts, never, capsys):
    assert run("evaluate", "--prompts", "quiz.csv", "--out", "new", "-k", "999") == 1
    tlm.ActivationMatrix(acts.values, acts.units, acts.samples[["prompt"]]).save("bare.safetensors")
    assert run("evaluate", "--acts", "bare.safetensors", "--out", "new", "-k", "2") == 1
    assert not (here / "new").exists()
