import numpy as np
import pytest
import torch

import tl_modules as tlm
from tl_modules.causal.ablation_path import ablation_path
from tl_modules.causal.metrics import make_task


def parts_of(model, prompts, reference, units, n_steps, batch_size=5, positions="content"):
    task = make_task(model, prompts, "loss", batch_size, None, positions)
    of_content = positions == "content"
    done = []
    found = ablation_path(
        model, task, units, reference, done.append, n_steps=n_steps, of_content=of_content
    )
    assert sum(done) == n_steps * len(prompts)
    return found


def rises_of(model, prompts, module, positions="content"):
    """Each prompt's rise, measured: every prompt is a category of its own."""
    alone = prompts.assign(category=[f"prompt {row:02}" for row in range(len(prompts))])
    options = {"positions": positions, "n_controls": 0, "progress": False}
    return tlm.module_effects(model, module, alone, **options)["effect"].to_numpy()


@pytest.mark.filterwarnings("ignore:No module's own category")
@pytest.mark.parametrize("positions", ["content", "all"])
def test_the_parts_sum_to_what_ablating_the_units_does(model, prompts, acts, modules, positions):
    module = modules[1]
    parts = parts_of(model, prompts, acts, module.units, 24, positions=positions)
    assert parts.shape == (len(prompts), module.n_units)
    measured = rises_of(model, prompts, module, positions)
    assert np.abs(measured).max() > 1e-3
    np.testing.assert_allclose(parts.sum(axis=1), measured, atol=0.02 * np.abs(measured).max())


@pytest.mark.filterwarnings("ignore:No module's own category")
def test_heads_move_with_all_their_coordinates(model, prompts):
    reference = tlm.collect_reference(model, prompts, units="attn_heads", progress=False)
    heads = reference.units.select(np.array([1, 2, 5]))
    parts = parts_of(model, prompts, reference, heads, 24)
    assert parts.shape == (len(prompts), 3)

    samples = prompts.head(1)
    measured = rises_of(model, prompts, tlm.Module(0, heads, samples, means=reference))
    np.testing.assert_allclose(parts.sum(axis=1), measured, atol=0.02 * np.abs(measured).max())


def test_parts_do_not_depend_on_the_batch(model, prompts, acts, modules):
    one, many = (
        parts_of(model, prompts, acts, modules[0].units, 2, batch_size) for batch_size in (1, 16)
    )
    np.testing.assert_allclose(one, many, atol=1e-5)


def test_the_caller_may_be_in_no_grad_mode_and_the_model_keeps_no_gradients(model, prompts, acts):
    units = acts.units.select(np.arange(6))
    expected = parts_of(model, prompts, acts, units, 1)
    with torch.no_grad():
        np.testing.assert_array_equal(parts_of(model, prompts, acts, units, 1), expected)
    assert all(weight.grad is None for weight in model.parameters())
