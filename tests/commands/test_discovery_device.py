"""``--discovery-device``: where the commands discover, whatever the model's own device is."""

import numpy as np
import pytest

import tl_modules as tlm
from tl_modules import cli
from tl_modules.discovery.on_device import OnDevice


@pytest.fixture
def saved(acts, tmp_path):
    path = tmp_path / "acts.safetensors"
    acts.save(path)
    return str(path)


@pytest.fixture
def made(monkeypatch):
    """The devices that matrices were copied to."""
    made, original = [], OnDevice.__init__

    def counted(self, *given):
        made.append(given[-1].type)
        original(self, *given)

    monkeypatch.setattr(OnDevice, "__init__", counted)
    return made


def test_discover_computes_on_the_device(saved, acts, tmp_path, made):
    out = tmp_path / "modules.safetensors"
    words = ["discover", saved, "-k", "3", "--out", str(out), "--no-progress"]
    assert cli.main([*words, "--discovery-device", "cpu"]) == 0
    assert made == ["cpu"]
    found = tlm.ModuleSet.load(out)
    np.testing.assert_array_equal(
        found.unit_labels, tlm.discover(acts, 3, progress=False).unit_labels
    )


def test_evaluate_computes_on_the_device(saved, tmp_path, made):
    words = ["evaluate", "--acts", saved, "-k", "2", "--methods", "topics_first", "--n-seeds", "1"]
    out = ["--out", str(tmp_path / "out"), "--no-progress"]
    assert cli.main([*words, *out, "--discovery-device", "cpu"]) == 0
    assert made == ["cpu"] * 4  # to warm up, the training prompts, and two halves of them


@pytest.mark.parametrize("command", ["discover", "evaluate", "demo"])
def test_a_device_that_torch_lacks_is_refused(command, saved, tmp_path, capsys):
    given = {"discover": [saved], "evaluate": ["--acts", saved], "demo": ["--model", "no-model"]}
    words = [command, *given[command], "--out", str(tmp_path / "out.safetensors")]
    assert cli.main([*words, "--discovery-device", "cuda:77"]) == 1
    said = capsys.readouterr().err
    assert "--discovery-device should be a device that torch has, with float64; got 'cuda" in said
    assert "Leave --discovery-device out to search on the CPU." in said


def test_a_store_is_refused(model, tmp_path, capsys):
    store = tmp_path / "store"
    tlm.collect(model, ["the cat", "a dog ran"], store=store, progress=False)
    words = ["discover", str(store), "-k", "2", "--out", str(tmp_path / "m.safetensors")]
    assert cli.main([*words, "--discovery-device", "cpu"]) == 1
    assert "--discovery-device needs a file that 'collect' wrote; " in capsys.readouterr().err
