"""``python -m benchmarks.truth`` in its quick form, part by part, on single shipped files."""

import sys

import numpy as np
import pandas as pd
import pytest

import tl_modules as tlm
from benchmarks.truth import __main__ as benchmark
from benchmarks.truth.false_positives import called
from benchmarks.truth.files import FOLDER
from benchmarks.truth.loading import load
from benchmarks.truth.options import BASELINES, CONTROLS, METHODS, READINGS, choices
from benchmarks.truth.recovery import SCENES, SUPERVISED
from benchmarks.truth.tables import share
from tests.conftest import long_once


def run(kind, part, monkeypatch, capsys, tmp_path):
    out = tmp_path / "table.csv"
    words = [str(FOLDER / f"{kind}-0.safetensors"), "--quick", "--parts", part, "--out", str(out)]
    monkeypatch.setattr(sys, "argv", ["benchmarks.truth", *words])
    benchmark.main()
    return capsys.readouterr().out, pd.read_csv(out) if out.stat().st_size > 1 else None


@long_once
@pytest.mark.slow
def test_recovery(monkeypatch, capsys, tmp_path):
    out, table = run("easy", "recovery", monkeypatch, capsys, tmp_path)
    assert "| reading | method | balanced |" in out
    found = table[table["k"] == "true"].set_index(["method", "scene"])["ari"]
    assert found[METHODS[0], "balanced"] > 0.8
    assert found["kmeans", "balanced"] > 0.8
    assert found[SUPERVISED, "balanced"] > 0.8
    assert set(METHODS) <= set(table["method"])
    assert set(table["scene"]) == {scene.name for scene in SCENES}
    assert "Share of runs whose chosen K is right" in out


@long_once
@pytest.mark.slow
def test_false_positives_and_power(monkeypatch, capsys, tmp_path):
    out, table = run("hard", "false positives", monkeypatch, capsys, tmp_path)
    assert table["selective"].sum() <= 0.3 * table["n"].sum()
    assert "| k |" in out
    out, table = run("hard", "power", monkeypatch, capsys, tmp_path)
    found = table.set_index("units")["selective"] / table.set_index("units")["n"]
    assert found["whole"] >= 0.6
    assert found["half"] >= 0.4


@pytest.mark.slow
@pytest.mark.parametrize("kind", CONTROLS)
def test_every_kind_of_control_tells_a_block_from_a_random_set(kind):
    truth = load(FOLDER / "hard-0.safetensors")
    random = np.random.default_rng(0).random(len(truth.owners)) < 0.2
    tasks = range(truth.n_tasks)
    of_blocks = called(truth, [(task, truth.owners == task) for task in tasks], kind, 0)
    of_random = called(truth, [(task, np.roll(random, task)) for task in tasks], kind, 0)
    assert of_blocks.sum() >= 3
    assert of_random.sum() <= 1


@long_once
@pytest.mark.slow
def test_precision_of_shared_units(monkeypatch, capsys, tmp_path):
    out, table = run("fewshared", "shared", monkeypatch, capsys, tmp_path)
    assert "fewshared-0" in out
    assert table["shared"].tolist() == [4]
    assert table["used"].between(1, 4).all()
    assert table["precision"].between(0, 1).all()
    assert table["precision of used"].tolist() == [1.0]


@long_once
@pytest.mark.slow
def test_cores_by_the_path_come_first(monkeypatch, capsys, tmp_path):
    out, table = run("hard", "cores", monkeypatch, capsys, tmp_path)
    assert "| core, by=path |" in out
    found = table.set_index(["ranking", "n_units"])["selectivity"]
    for other in ("core, by=magnitude", "core, by=signed", "fit", "random", "t-contrast"):
        assert found["core, by=path", 10] > 1.2 * found[other, 10]


@long_once
@pytest.mark.slow
def test_shared_units_are_set_aside_and_called_so(monkeypatch, capsys, tmp_path):
    out, table = run("fewshared", "called shared", monkeypatch, capsys, tmp_path)
    assert "| shared | 1 of 1 |" in out
    called = table.groupby("set")["called"].sum()
    assert called["block"] == called["half a block"] == 0
    out, table = run("fewshared", "set aside", monkeypatch, capsys, tmp_path)
    assert "| none | found | true |" in out
    assert table["ari"].between(0.3, 1).all()


def test_the_package_s_own_lists_are_read():
    assert {"kmeans", "spectral"} <= set(BASELINES)
    assert {"activation", "attribution"} <= set(READINGS)
    assert choices(tlm.module_effects, "controls") == CONTROLS
    assert "layer" in CONTROLS
    assert choices(tlm.collect, "probe_seed") == ()
    assert choices(tlm.collect, "no such parameter") == ()


def test_scenes():
    unequal, large = SCENES[1], SCENES[2]
    assert unequal.unit_shares(5).tolist() == [1, 0.75, 0.5, 0.25, 0.1]
    assert large.unit_shares(4).tolist() == [1, 0.1, 0.1, 0.1]
    assert SCENES[4].counts(3, 40) == (40, 4, 4)


def test_a_share_has_its_interval():
    # Wilson's interval of 5 in 100.
    text = share(pd.DataFrame({"selective": [2, 3], "n": [40, 60]}))
    assert text == "0.050 (0.022 to 0.112; n = 100)"
