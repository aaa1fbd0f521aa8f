"""Each prompt's mean state, by hand, where padding holds nothing that counts."""

import numpy as np
import pytest
import torch

from tl_modules.causal.states import States
from tl_modules.errors import ModulesError
from tl_modules.models.batches import Batch
from tl_modules.models.runs import hook_order

MASK = torch.tensor([[1, 1, 1], [1, 0, 0]]).bool()
BATCH = Batch(np.array([1, 0]), torch.zeros(2, 3, dtype=torch.long), MASK, MASK)


def read(activation, name="here"):
    states = States(name, 1, 2)
    found, hook = states.reader(np.array([0, 0]), BATCH.rows, BATCH.mask)
    assert found == name
    assert hook.apply_(activation) is activation
    return states.means


def test_the_first_token_counts_where_it_is_the_only_one_and_padding_never():
    activation = torch.full((2, 3, 2), torch.nan)
    activation[0] = torch.tensor([[100.0, 100.0], [1.0, 2.0], [3.0, 6.0]])
    activation[1, 0] = torch.tensor([7.0, 8.0])
    np.testing.assert_array_equal(read(activation), [[[7, 8], [2, 4]]])


def test_heads_are_laid_side_by_side():
    activation = torch.arange(24.0).reshape(2, 3, 2, 2)
    np.testing.assert_array_equal(read(activation), [[[12, 13, 14, 15], [6, 7, 8, 9]]])


@pytest.mark.parametrize(
    ("shape", "name"),
    [((2, 3), "here"), ((2, 4, 2), "here"), ((2, 3, 3, 3), "blocks.0.attn.hook_attn_scores")],
)
def test_what_holds_no_state_of_a_token_is_refused(shape, name):
    with pytest.raises(ModulesError, match="should have a batch and a position axis"):
        read(torch.zeros(shape), name)


def test_a_state_that_is_no_number_is_refused():
    activation = torch.zeros(2, 3, 2)
    activation[0, 1, 0] = torch.inf
    with pytest.raises(ModulesError, match="should be finite"):
        read(activation)


def test_hook_points_come_in_the_order_of_a_forward_pass(model):
    names = ["blocks.2.hook_resid_post", "blocks.0.mlp.hook_post", "blocks.0.hook_resid_pre"]
    assert hook_order(model, names) == names[::-1]
    with pytest.raises(ModulesError, match=r"has none named \['nowhere'\]"):
        hook_order(model, ["nowhere", *names])


def test_a_hook_point_that_the_model_has_and_never_runs_is_refused(model, monkeypatch):
    monkeypatch.setattr(model, "run_with_hooks", lambda *args, **options: None)
    with pytest.raises(ModulesError, match="never fired"):
        hook_order(model, ["blocks.0.mlp.hook_post"])
