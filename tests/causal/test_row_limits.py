"""Passes that memory does not hold are halved, and the batch size follows free memory."""

from types import SimpleNamespace

import numpy as np
import psutil
import pytest
import torch

import tl_modules as tlm
from tests.causal.alike import check_alike
from tests.conftest import tiny_model
from tl_modules.causal import prompt_runs
from tl_modules.models.batch_sizes import ON_CPU, ON_GPU, batch_size_of
from tl_modules.runtime.memory import free_memory

QUIET = {"n_controls": 3, "progress": False}
PLACE = ["blocks.1.hook_resid_post"]
ONE = {"category": "code", "progress": False}


def limited(monkeypatch, most):
    """Let memory run out above so many rows; the numbers of rows that were tried."""
    tried, original = [], prompt_runs.forward

    def forward(model, tokens, *words):
        tried.append(len(tokens))
        if len(tokens) > most:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return original(model, tokens, *words)

    monkeypatch.setattr(prompt_runs, "forward", forward)
    return tried


def test_passes_are_halved_and_nothing_else_changes(model, modules, prompts, monkeypatch):
    expected = tlm.module_effects(model, modules, prompts, batch_size=1, **QUIET)
    tried = limited(monkeypatch, 3)
    with pytest.warns(UserWarning, match="Memory ran out at a forward pass of") as said:
        found = tlm.module_effects(model, modules, prompts, batch_size=8, **QUIET)
    check_alike(found, expected)
    failed = [n_rows for n_rows in tried if n_rows > 3]
    assert failed == [8, 4]
    assert len(said) == len(failed)


def test_hooks_of_other_kinds_run_on_parts_of_a_batch(model, modules, prompts, monkeypatch):
    own = tlm.related.leace(
        model, *(frame["prompt"].tolist() for _, frame in prompts.groupby("category")), PLACE, **ONE
    )
    expected = tlm.module_effects(model, own, prompts, batch_size=1, **QUIET)
    tried = limited(monkeypatch, 3)
    with pytest.warns(UserWarning, match="Memory ran out at a forward pass of"):
        found = tlm.module_effects(model, own, prompts, batch_size=8, **QUIET)
    check_alike(found, expected)
    assert max(tried) == 8
    assert 3 not in tried[-4:]  # halved from 8: passes of 2


def test_a_single_row_that_does_not_fit_is_refused(model, modules, prompts, monkeypatch):
    limited(monkeypatch, 0)
    with (
        pytest.warns(UserWarning, match="Memory ran out"),
        pytest.raises(tlm.ModulesError, match=r"One prompt does not fit into memory.*max_tokens"),
    ):
        tlm.module_effects(model, modules, prompts, batch_size=4, **QUIET)


def test_other_errors_are_not_taken_for_a_lack_of_memory(model, modules, prompts, monkeypatch):
    def broken(*_):
        raise RuntimeError("something else")

    monkeypatch.setattr(prompt_runs, "forward", broken)
    with pytest.raises(RuntimeError, match="something else"):
        tlm.module_effects(model, modules, prompts, **QUIET)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_the_batch_size_follows_free_memory(device, monkeypatch):
    model, free = tiny_model(), 2**40
    for name, value in {"device": device, "d_mlp": 1536, "d_vocab": 49152}.items():
        monkeypatch.setattr(model.cfg, name, value)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=free))
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free, 2**41))
    kept = iter([0] * 20)
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: next(kept))
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 0)
    most = ON_CPU if device == "cpu" else ON_GPU
    assert batch_size_of(model, "auto", 100) == most
    assert batch_size_of(model, 7, 100) == 7
    free = 2**30
    sizes = [batch_size_of(model, "auto", n_tokens) for n_tokens in (100, 1000, 10_000)]
    assert most >= sizes[0] > sizes[1] >= sizes[2] == 1
    # A backward pass needs all layers, and fewer rows fit; without logits more do.
    monkeypatch.setattr(model.cfg, "n_layers", 100)
    assert batch_size_of(model, "auto", 100, gradients=True) < sizes[0]
    assert batch_size_of(model, "auto", 1000, logits=False) > sizes[1]


def test_an_experiment_takes_the_size_that_fits(model, modules, prompts, monkeypatch):
    sizes, original = [], prompt_runs.forward

    def watched(model, tokens, *words):
        sizes.append(len(tokens))
        return original(model, tokens, *words)

    monkeypatch.setattr(prompt_runs, "forward", watched)
    found = tlm.module_effects(model, modules, prompts, **QUIET)
    assert max(sizes) == min(ON_CPU, 4 * len(modules) * len(prompts))
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=40_000))
    sizes.clear()
    small = tlm.module_effects(model, modules, prompts, **QUIET)
    assert max(sizes) < ON_CPU
    np.testing.assert_allclose(found["effect"], small["effect"], atol=1e-5)


def test_memory_that_torch_keeps_is_free(monkeypatch):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (100, 900))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 500)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 300)
    assert free_memory(torch.device("cuda")) == 300
    assert free_memory(torch.device("cpu")) > 2**20


def test_patched_passes_are_halved_too(model, modules, prompts, monkeypatch):
    texts = [text + " and why" * (row % 3) for row, text in enumerate(prompts["prompt"])]
    short = prompts.assign(prompt=texts)
    frame = short.assign(corrupted=short["prompt"].str.replace("the", "a"))
    options = {"method": "patch", **QUIET}
    expected = tlm.module_effects(model, modules, frame, batch_size=1, **options)
    limited(monkeypatch, 3)
    with pytest.warns(UserWarning, match="Memory ran out at a forward pass of"):
        found = tlm.module_effects(model, modules, frame, batch_size=len(frame), **options)
    check_alike(found, expected)


def test_a_limit_is_found_once_in_an_experiment(model, modules, prompts, monkeypatch):
    tried = limited(monkeypatch, 3)
    options = {"n_controls": None, "progress": False}
    with pytest.warns(UserWarning, match="Memory ran out at a forward pass of") as said:
        tlm.module_effects(model, modules, prompts, batch_size=8, **options)
    assert [n_rows for n_rows in tried if n_rows > 3] == [8, 4]
    assert len(said) == 2


def test_a_batch_size_is_a_number_or_auto(model, modules, prompts):
    with pytest.raises(tlm.ModulesError, match="batch_size should be at least 1"):
        tlm.module_effects(model, modules, prompts, batch_size=0, **QUIET)
    with pytest.raises(tlm.ModulesError, match="batch_size"):
        tlm.module_effects(model, modules, prompts, batch_size="many", **QUIET)
