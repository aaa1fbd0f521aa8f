"""The benchmarks of devices still run, at sizes where their figures of speed mean nothing."""

import re

import pytest

from benchmarks import device, device_error
from tests.conftest import LEGACY
from tests.test_benchmarks import run

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(LEGACY, reason="the benchmarks boot TransformerLens 4's bridge"),
]


def test_shapes_of_random_weights(demo_model, monkeypatch, capsys):
    monkeypatch.setattr(device, "load_demo_model", lambda: demo_model)
    words = ["--shapes", "tiny", "--device", "cpu", "--prompts", "8", "--batch-size", "4"]
    words += ["--tokens", "6", "--modules", "2", "--repeats", "1"]
    out = run(device, words, monkeypatch, capsys)
    assert "tiny, float32, on the CPU" in out
    names = ["the bridge alone", "hooks that do nothing", "the least reader", "collect, token"]
    for name in [*names, "stacked ablation, 2 modules x 2"]:
        assert re.search(rf"^{name}.*: [\d,]+ tokens/s, \d+\.\d\d times a plain", out, re.MULTILINE)


def test_errors_of_a_devices_reduction(demo_model, monkeypatch, capsys):
    monkeypatch.setattr(device_error, "load_demo_model", lambda: demo_model)
    words = ["--device", "cpu", "--prompts", "2", "--tokens", "12"]
    out = run(device_error, words, monkeypatch, capsys)
    rows = [line.split() for line in out.splitlines() if re.search(r"e[+-]\d\d$", line)]
    assert len(rows) == 3 * (4 + 3)
    assert max(float(number) for row in rows for number in row[-3:]) < 1e-4
    assert max(float(row[-1]) for row in rows) > 0
