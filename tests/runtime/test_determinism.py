"""The same bits, whatever the number of threads or the batch size is."""

import os
import subprocess
import sys
from contextlib import contextmanager, nullcontext
from pathlib import Path

import numba
import numpy as np
import pytest
import torch

import tl_modules as tlm
from tests.activations.test_resume import contents
from tests.planted import planted_matrix
from tl_modules.activations import chunk_values
from tl_modules.runtime.determinism import rows_alike

CPU = Path("/proc/cpuinfo")
pytestmark = pytest.mark.skipif(
    not (torch.backends.mkl.is_available() and CPU.exists() and "GenuineIntel" in CPU.read_text()),
    reason="MKL promises one order of additions on Intel's CPUs alone",
)


@contextmanager
def threads(number):
    """So many threads for torch and numba."""
    before = torch.get_num_threads(), numba.get_num_threads()
    torch.set_num_threads(number)
    numba.set_num_threads(min(number, before[1]))
    try:
        yield
    finally:
        torch.set_num_threads(before[0])
        numba.set_num_threads(before[1])


def check_collected(model, prompts, folder, options, ways, monkeypatch):
    """Every way to run, threads and batch size, gives the matrix and the store of the first."""
    monkeypatch.setattr(chunk_values, "CHUNK_BYTES", 1)
    monkeypatch.setattr(chunk_values, "LEAST_PROMPTS", 7)
    first, stored = None, None
    for n_threads, batch_size in ways:
        with threads(n_threads):
            acts = tlm.collect(model, prompts, batch_size=batch_size, progress=False, **options)
            path = folder / f"{n_threads} {batch_size}"
            if options.get("weight") != "attribution":  # of which a store takes none
                tlm.collect(
                    model, prompts, batch_size=batch_size, store=path, progress=False, **options
                )
        first = acts if first is None else first
        np.testing.assert_array_equal(acts.values, first.values)
        np.testing.assert_array_equal(acts.unit_means, first.unit_means)
        if path.exists():
            store = tlm.ActivationStore(path)
            np.testing.assert_array_equal(store.unit_means, first.unit_means)
            found = contents(path)
            del found["plan.safetensors"]  # it names the batch size
            stored = found if stored is None else stored
            assert found == stored
    return first


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"aggregate": "rms", "units": "mlp+attn_heads"},
        {"tokens": "last", "units": "resid"},
        {"weight": "attribution"},
    ],
)
def test_activations_do_not_depend_on_threads(model, prompts, tmp_path, options, monkeypatch):
    # On batches they do here: torch takes other routines for matrices as small as the tiny model's.
    check_collected(model, prompts, tmp_path, options, ((2, 4), (1, 4)), monkeypatch)


def softmax_gradient(logits, gradient, dim, ours, n_threads=2):
    leaf = logits.clone().requires_grad_()
    with threads(n_threads), rows_alike() if ours else nullcontext():
        return torch.autograd.grad(leaf.softmax(dim), leaf, gradient)[0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.float64])
@pytest.mark.parametrize(
    ("shape", "dim"), [((36, 20, 20), -1), ((4, 9, 33, 33), 3), ((1, 49_152), 1), ((49_152,), 0)]
)
def test_a_softmaxs_gradient_depends_on_neither_threads_nor_other_rows(dtype, shape, dim):
    generator = torch.Generator().manual_seed(0)
    logits, gradient = torch.randn(2, *shape, generator=generator).to(dtype)
    found = softmax_gradient(logits, gradient, dim, ours=True)
    own = softmax_gradient(logits, gradient, dim, ours=False)
    np.testing.assert_allclose(found, own, atol=1e-6)
    if dtype != torch.float32:  # then it is torch's own
        assert found.equal(own)
        return
    assert softmax_gradient(logits, gradient, dim, ours=True, n_threads=1).equal(found)
    if len(shape) > 1:
        assert softmax_gradient(logits[0], gradient[0], -1, ours=True).equal(found[0])


def test_other_softmaxes_are_left_to_torch():
    for shape, dim in (((30, 50), 0), ((), 0), ((0, 3), 1)):
        logits, gradient = torch.randn(2, *shape, generator=torch.Generator().manual_seed(0))
        ways = [softmax_gradient(logits, gradient, dim, ours=ours) for ours in (True, False)]
        assert ways[0].equal(ways[1])


@pytest.mark.slow
def test_real_activations_and_effects_depend_on_neither_threads_nor_batches(
    demo_model, tmp_path, monkeypatch
):
    prompts = tlm.data.load_prompts().groupby("category").head(3)
    options, ways = {"max_tokens": 20}, ((2, 16), (1, 16), (2, 1), (1, 5))
    acts = check_collected(demo_model, prompts, tmp_path, options, ways, monkeypatch)
    few, attribution = prompts.head(6), options | {"weight": "attribution"}
    check_collected(demo_model, few, tmp_path, attribution, ((2, 4), (1, 3)), monkeypatch)
    modules = tlm.discover(acts, 4, progress=False)
    own = {k: ("coding", "math")[k % 2] for k in range(4)}  # the tested prompts' categories
    modules = modules.with_categories(own)
    found = []
    for n_threads, batch_size in ((2, 16), (1, 5)):
        with threads(n_threads):
            found.append(
                tlm.module_effects(
                    demo_model,
                    modules,
                    prompts.head(4),
                    n_controls=2,
                    max_tokens=8,
                    batch_size=batch_size,
                    progress=False,
                )
            )
    assert found[0].equals(found[1])


def test_modules_depend_on_no_threads(tmp_path):
    values = np.float32(planted_matrix(60, 9001, 4, seed=0, strength=0.3)[0] + 10)
    acts = tlm.ActivationMatrix.from_arrays(values)
    with tlm.ActivationStore.create(tmp_path / "acts", acts.units, samples_per_chunk=7) as writer:
        writer.add(values)
    store = tlm.ActivationStore(tmp_path / "acts")
    for of in (acts, store):
        found = []
        for n_threads in (2, 1):
            with threads(n_threads):
                options = {"n_starts": 3, "n_kicks": 2, "n_jobs": n_threads, "progress": False}
                found.append(tlm.discover(of, 4, **options))
        assert found[0].objective == found[1].objective
        for name, array in found[0].parts()[1].items():
            np.testing.assert_array_equal(found[1].parts()[1][name], array)


def test_mkl_is_asked_for_one_order_unless_the_user_asked_for_another():
    code = "import os, torch, tl_modules; print(os.environ['MKL_CBWR'])"
    for given, expected in ((None, "AUTO,STRICT"), ("COMPATIBLE", "COMPATIBLE")):
        environment = {name: value for name, value in os.environ.items() if name != "MKL_CBWR"}
        if given is not None:
            environment["MKL_CBWR"] = given
        done = subprocess.run(
            [sys.executable, "-c", code],
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout.strip() == expected
