"""``batch_size="auto"`` is the default wherever prompts are run, and follows free memory."""

import inspect

import pytest

import tl_modules as tlm
from tests.calls import CALLS, QUIET, setting
from tests.public import FUNCTIONS, OF_DATA
from tl_modules.models import batch_sizes

TRAINED = {"unlearn", "forgetting"}
"""A batch is a step of training there, so memory may not decide its size."""

SIZED = {
    name: inspect.signature(function).parameters["batch_size"].default
    for name, function in FUNCTIONS.items()
    if name not in OF_DATA and "batch_size" in inspect.signature(function).parameters
}
TESTED_ELSEWHERE = {"collect", "module_effects", "dissociation", "concept_effects", "causal_cores"}
"""Experiments with ``Options``, see ``test_row_limits.py``, and what needs memory for a matrix."""

SHORTER = {
    "describe_units": lambda c: tlm.describe_units(
        c.model, c.modules[0].units.to_frame(), c.prompts, c.modules, **QUIET
    ),
}
"""Calls with fewer other passes than those of ``CALLS``."""

N_PAIRS = 4
"""Prompts of the calls with tokens, which no pass has fewer of."""


@pytest.fixture(scope="module")
def called_with(model, prompts, acts, modules, tmp_path_factory):
    return setting(model, prompts, acts, modules, tmp_path_factory.mktemp("page"))


def rows_of(model, call, given):
    """The rows of each pass of a call."""
    rows = []
    point = model.hook_dict["blocks.0.hook_resid_pre"]
    handle = point.register_forward_hook(lambda module, args, out: rows.append(len(out)))
    try:
        call(given)
    finally:
        handle.remove()
    return rows


def test_memory_decides_the_batch_size_wherever_nothing_is_trained():
    assert set(SIZED) >= TRAINED
    assert {name for name, default in SIZED.items() if default != "auto"} == TRAINED


@pytest.mark.parametrize("name", sorted(set(SIZED) - TRAINED - TESTED_ELSEWHERE))
def test_passes_are_smaller_where_memory_is_short(name, model, called_with, monkeypatch):
    call = (CALLS | SHORTER)[name]
    most = max(rows_of(model, call, called_with))
    monkeypatch.setattr(batch_sizes, "free_memory", lambda device: 100)
    fewest = max(rows_of(model, call, called_with))
    assert fewest in (1, N_PAIRS)
    assert fewest < most


def test_a_backward_pass_has_fewer_rows(model, called_with, monkeypatch):
    # 16 of the longest prompts fit into so much, but not with all layers' activations.
    monkeypatch.setattr(batch_sizes, "free_memory", lambda device: 3_000_000)
    options = {"n_units": 2, "shortlist": 4, **QUIET}
    rows = rows_of(
        model, lambda c: tlm.shared_units(c.model, c.prompts, c.acts, **options), called_with
    )
    assert max(rows) == batch_sizes.ON_CPU
    assert rows[0] < batch_sizes.ON_CPU
