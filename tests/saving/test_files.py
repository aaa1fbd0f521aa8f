import inspect
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

import tl_modules as tlm
from tl_modules import cli
from tl_modules.data import read_prompts
from tl_modules.saving import files
from tl_modules.saving.files import checked_path


@pytest.fixture
def saved(modules, tmp_path):
    path = tmp_path / "modules.safetensors"
    modules.save(path)
    return path


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(tlm.ModulesError, match=r"There is no file '.*absent"):
        tlm.ModuleSet.load(tmp_path / "absent")


@pytest.mark.parametrize("kept", [0, 7, 100, 0.5, 0.99])
def test_a_truncated_file_is_refused(saved, kept):
    data = saved.read_bytes()
    saved.write_bytes(data[: int(kept * len(data)) if isinstance(kept, float) else kept])
    with pytest.raises(tlm.ModulesError):
        tlm.ModuleSet.load(saved)


@settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(position=st.integers(0), flip=st.integers(1, 255))
def test_a_file_with_one_altered_byte_is_refused_or_loads_the_same(
    saved, modules, position, flip, tmp_path
):
    data = bytearray(saved.read_bytes())
    data[position % len(data)] ^= flip
    altered = tmp_path / "altered.safetensors"
    altered.write_bytes(data)
    try:
        found = tlm.ModuleSet.load(altered)
    except tlm.ModulesError:
        return
    # Only a byte that carries nothing (a space of padding, say) may change unnoticed.
    np.testing.assert_array_equal(found.unit_labels, modules.unit_labels)
    assert found.objective == modules.objective


def test_no_pickle_is_ever_read(tmp_path):
    import pickle

    path = tmp_path / "modules.safetensors"
    path.write_bytes(pickle.dumps({"unit_labels": [0, 1]}))
    with pytest.raises(tlm.ModulesError, match="not a readable safetensors file"):
        tlm.ModuleSet.load(path)


def test_somebody_elses_safetensors_file_is_refused(tmp_path):
    save_file({"weights": np.ones(3)}, tmp_path / "other.safetensors")
    with pytest.raises(tlm.ModulesError, match="should hold a ModuleSet; it holds None"):
        tlm.ModuleSet.load(tmp_path / "other.safetensors")


def test_a_whole_file_that_lacks_a_part_is_refused(tmp_path):
    files.write(tmp_path / "bare", "ModuleSet", {"n_modules": 3}, {})
    with pytest.raises(tlm.ModulesError, match="lacks parts of a ModuleSet"):
        tlm.ModuleSet.load(tmp_path / "bare")


@pytest.mark.parametrize(
    "units",
    [
        {"names": ["a"], "layers": [0], "widths": [2**40]},
        {"names": ["a", "a"], "layers": [0, 1], "widths": [2, 2]},
        {"names": ["a"], "layers": [0, 1], "widths": [2]},
        {"names": ["a"], "layers": [0], "widths": ["2"]},
        {"names": ["a"], "layers": [0], "widths": [True]},
        {"names": [], "layers": [], "widths": []},
        {"names": 3},
        {},
    ],
)
def test_a_hostile_list_of_hook_points_is_refused_before_anything_is_allocated(units):
    with pytest.raises(tlm.ModulesError, match="malformed"):
        tlm.Units.from_dict(units)


def test_a_newer_format_is_refused_with_the_remedy(saved, monkeypatch):
    monkeypatch.setattr(files, "FORMAT_VERSION", 1)
    with pytest.raises(tlm.ModulesError, match=r"format version 2; .*Install the version"):
        tlm.ModuleSet.load(saved)


def test_a_write_that_fails_leaves_the_old_file_and_no_other(saved, modules, monkeypatch):
    before = saved.read_bytes()

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(tlm.ModulesError, match=r"Cannot write .*No space left on device"):
        modules.save(saved)
    assert saved.read_bytes() == before
    assert [path.name for path in saved.parent.iterdir()] == [saved.name]


def test_a_folder_that_is_not_there_is_named(modules, tmp_path):
    with pytest.raises(tlm.ModulesError, match="Check that the folder exists"):
        modules.save(tmp_path / "nowhere" / "modules.safetensors")


def test_headers_longer_than_safetensors_takes_are_kept_whole(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "_LONG", 100)
    header = {"text": "\u00fc" * 500}
    files.write(tmp_path / "file", "Thing", header, {"a": np.arange(3.0)})

    def build(found, arrays):
        assert list(arrays) == ["a"]
        return found

    def read():
        return files.read(tmp_path / "file", "Thing", build, lambda _: {"a": (3,)})

    assert read() == header
    data = (tmp_path / "file").read_bytes()
    (tmp_path / "file").write_bytes(data.replace(b"u00fc", b"u00fd", 1))
    with pytest.raises(tlm.ModulesError, match="was altered"):
        read()


@pytest.mark.parametrize("name", ["a\0b", "\ud800", "x" * 256, "\u0e01" * 100])
def test_what_can_be_no_path_is_refused_wherever_one_is_taken(
    modules, acts, model, prompts, tmp_path, name, capsys
):
    path = tmp_path / name
    for run in (
        lambda: acts.save(path),
        lambda: acts.save(path / "acts.safetensors"),
        lambda: tlm.ActivationMatrix.load(path),
        lambda: tlm.ActivationStore(path),
        lambda: tlm.ActivationStore.create(path, acts.units),
        lambda: tlm.collect(model, prompts, store=path, progress=False),
        lambda: modules.save_pretrained(path),
        lambda: tlm.write_report(path, modules, progress=False),
        lambda: tlm.data.read_prompts(f"{path}.jsonl"),
    ):
        with pytest.raises(tlm.ModulesError, match=r"is not a valid path: .* Name another path\."):
            run()
    for words in (["report", str(path)], ["discover", "acts", "--out", str(path)]):
        assert cli.main(words) == 1
        assert "is not a valid path" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_file_whose_name_is_no_text_is_written_and_read(modules, tmp_path):
    path = tmp_path / os.fsdecode(b"\xff\xfe modules.safetensors")
    modules.save(path)
    assert tlm.ModuleSet.load(path).objective == modules.objective


def test_no_name_is_no_file(acts):
    with pytest.raises(tlm.ModulesError, match="should name a file to write to"):
        acts.save("")


def test_a_tilde_is_the_home_folder_wherever_a_path_is_taken(
    model, prompts, acts, modules, tmp_path, monkeypatch
):
    home, here = tmp_path / "home", tmp_path / "here"
    for folder in (home, here):
        folder.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(here)
    tlm.collect(model, prompts, store="~/store", progress=False)
    assert len(tlm.ActivationStore("~/store").samples) == len(prompts)
    acts.save("~/acts.safetensors")
    assert tlm.ActivationMatrix.load("~/acts.safetensors").shape == acts.shape
    modules.save("~/modules.safetensors")
    assert len(tlm.ModuleSet.load(Path("~/modules.safetensors"))) == len(modules)
    modules.save_pretrained("~/shared")
    assert len(tlm.ModuleSet.from_pretrained("~/shared")) == len(modules)
    assert tlm.write_report("~/report.html", modules, progress=False) == home / "report.html"
    (home / "prompts.csv").write_text("prompt\nthe cat\n")
    assert read_prompts("~/prompts.csv")["prompt"].tolist() == ["the cat"]
    assert cli.main(["discover", "~/acts.safetensors", "--out", "~/found.safetensors"]) == 0
    assert (home / "found.safetensors").is_file()
    assert list(here.iterdir()) == []


def test_a_tilde_before_no_users_name_stays(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert checked_path("~$lock.csv") == Path("~$lock.csv")
    for path in (7, None, ["a"]):
        with pytest.raises(tlm.ModulesError, match="A path should be a text"):
            inspect.unwrap(checked_path)(path)
