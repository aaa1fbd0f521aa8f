"""The benchmarks still run, at a size where their figures mean nothing."""

import sys

import numpy as np
import pytest

import tl_modules as tlm
from benchmarks import ablation, iterd, scale, search
from tl_modules.discovery import _kernel


def run(module, words, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [module.__name__, *words])
    module.main()
    return capsys.readouterr().out


@pytest.fixture
def saved(tmp_path):
    values = np.random.default_rng(0).gamma(1.0, size=(60, 300)).astype(np.float32)
    tlm.ActivationMatrix.from_arrays(values).save(tmp_path / "acts.safetensors")
    return str(tmp_path / "acts.safetensors")


def test_iterd(monkeypatch, capsys):
    # It wraps the kernels in a clock: put them back.
    monkeypatch.setattr(_kernel, "sweep", _kernel.sweep)
    monkeypatch.setattr(_kernel, "PARALLEL", _kernel.PARALLEL)
    words = ["--samples", "40", "--units", "200", "--modules", "3", "--slice", "20"]
    assert "ratio (published" in run(iterd, words, monkeypatch, capsys)


def test_search(saved, monkeypatch, capsys):
    words = ["--acts", saved, "--modules", "3", "--restarts", "2"]
    assert "against the best restart" in run(search, words, monkeypatch, capsys)


@pytest.mark.skipif(sys.platform != "linux", reason="reads memory figures that Linux keeps")
def test_scale(saved, monkeypatch, capsys):
    out = run(scale, ["--smaller", "40", "--modules", "8", "--acts", saved], monkeypatch, capsys)
    assert "peak resident anonymous memory" in out
    assert "samples x 2" in out


@pytest.mark.slow
def test_ablation(demo_model, monkeypatch, capsys):
    monkeypatch.setattr(ablation, "load_demo_model", lambda: demo_model)
    words = ["--rows", "2", "--runs", "2", "--tokens", "8", "--repeats", "1"]
    out = run(ablation, words, monkeypatch, capsys)
    gap = float(out.split("from the run alone:")[1])
    assert gap < 1e-2
