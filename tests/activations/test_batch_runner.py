"""Memory: what will not fit is refused, and a batch that does not is halved."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import tl_modules as tlm
from tests.conftest import LEGACY
from tests.plain import Plain, digits
from tl_modules.activations import batch_runner, chunk_values

ROOT = Path(__file__).parents[2]

# A batch of 16 takes over 500 MB at a hook point.
RUN = """
import resource, sys, warnings
import numpy as np, psutil
import tl_modules as tlm
from tests.plain import Plain
model = Plain(width=4000)
prompts = [" ".join(str((row + place) % 9 + 1) for place in range(1000)) for row in range(20)]
tlm.collect(model, prompts[:1], progress=False)  # loads all there is to load
most = psutil.Process().memory_info().vms + int(sys.argv[1]) * 10**6
resource.setrlimit(resource.RLIMIT_AS, (most, most))
with warnings.catch_warnings(record=True) as said:
    warnings.simplefilter("always")
    try:
        acts = tlm.collect(model, prompts, batch_size=16, progress=False)
        np.savez(sys.argv[2], values=acts.values, means=acts.unit_means)
    except tlm.ModulesError as error:
        print("refused:", error)
for warning in said:
    print(warning.message)
"""


def ran(megabytes, path):
    done = subprocess.run(
        [sys.executable, "-c", RUN, str(megabytes), str(path)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=True,
    )
    return done.stdout


@pytest.mark.slow
@pytest.mark.skipif(LEGACY, reason="it needs nothing of TransformerLens")
def test_a_batch_that_memory_does_not_hold_is_halved_and_the_run_goes_on(tmp_path):
    printed = ran(400, tmp_path / "found.npz")
    assert "Memory ran out at a batch of 16 prompts x 1000 tokens" in printed
    assert "refused" not in printed
    prompts = [" ".join(str((row + place) % 9 + 1) for place in range(1000)) for row in range(20)]
    expected = tlm.collect(Plain(width=4000), prompts, batch_size=3, progress=False)
    found = np.load(tmp_path / "found.npz")
    np.testing.assert_array_equal(found["values"], expected.values)
    np.testing.assert_array_equal(found["means"], expected.unit_means)
    printed = ran(20, tmp_path / "none.npz")
    assert "refused: One prompt of 1,000 tokens does not fit into the memory of cpu" in printed
    assert not (tmp_path / "none.npz").exists()


def test_halves_are_run_in_order_and_what_was_too_much_is_not_tried_again(monkeypatch):
    """The GPU's error, which has no GPU here to raise it, raised by hand above 12 tokens."""
    tried = []
    values = batch_runner.batch_values

    def short(model, batch, *rest):
        tried.append(tuple(batch.tokens.shape))
        if batch.tokens.numel() > 12:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return values(model, batch, *rest)

    expected = tlm.collect(Plain(), digits(11), batch_size=1, progress=False)
    monkeypatch.setattr(batch_runner, "batch_values", short)
    with pytest.warns(UserWarning, match="Memory ran out at a batch of") as said:
        found = tlm.collect(Plain(), digits(11), batch_size=5, progress=False)
    np.testing.assert_array_equal(found.values, expected.values)
    np.testing.assert_array_equal(found.unit_means, expected.unit_means)
    assert len(said) == len([shape for shape in tried if np.prod(shape) > 12])
    sizes = [np.prod(shape) for shape in tried if np.prod(shape) > 12]
    assert sizes == sorted(sizes, reverse=True)
    assert len(set(sizes)) == len(sizes)


def test_another_error_is_not_taken_for_a_lack_of_memory(monkeypatch):
    def broken(*_):
        raise RuntimeError("something else")

    monkeypatch.setattr(batch_runner, "batch_values", broken)
    with pytest.raises(RuntimeError, match="something else"):
        tlm.collect(Plain(), digits(3), progress=False)


def test_what_will_not_fit_is_refused_before_anything_runs(tmp_path, monkeypatch):
    monkeypatch.setattr(batch_runner, "batch_values", None)
    prompts = digits(5000)
    with monkeypatch.context() as patched:
        patched.setattr(
            chunk_values, "CHUNK_BYTES", 1
        )  # 40 chunks; otherwise one, as large as the matrix
        with pytest.raises(tlm.ModulesError, match=re.escape("max_memory allows. Pass store=")):
            tlm.collect(Plain(), prompts, batch_size=2, max_memory="500 kB")
    for store in (None, tmp_path / "acts"):
        with pytest.raises(tlm.ModulesError, match="Pass a smaller batch_size or max_tokens"):
            tlm.collect(Plain(), prompts, store=store, batch_size=5000, max_memory="5 MB")
    assert not (tmp_path / "acts").exists()


def test_a_store_needs_less_than_the_matrix(tmp_path, monkeypatch):
    monkeypatch.setattr(chunk_values, "CHUNK_BYTES", 1)
    store = tlm.collect(
        Plain(),
        digits(2000),  # 384 kB
        store=tmp_path / "acts",
        batch_size=8,
        max_memory="200 kB",
        progress=False,
    )
    assert store.shape == (2000, 48)
