"""A layer whose neurons changed places, found and put back."""

import numpy as np
import pytest
import torch

import tl_modules as tlm
from tests.conftest import tiny_model
from tests.training.test_limited import moved, weights
from tests.training.test_masks import some_units
from tl_modules.training.masks import neuron_rows
from tl_modules.units import site_units

TOKENS = torch.arange(3, 15)[None]


def permuted(orders):
    """The tiny model with its neurons in another order: neuron i is at orders[layer][i]."""
    model = tiny_model()
    with torch.no_grad():
        for layer, _, every in neuron_rows(model, site_units(model, "mlp")):
            for rows in every:
                values = rows.of(rows.parameter).clone()
                rows.of(rows.parameter)[orders[layer]] = values
    return model


@pytest.fixture
def orders():
    generator = np.random.default_rng(0)
    return [torch.from_numpy(generator.permutation(12)) for _ in range(3)]


def test_a_permuted_layer_is_matched_to_its_permutation_and_the_old_function_comes_back(orders):
    old, new = tiny_model(), permuted(orders)
    torch.testing.assert_close(new(TOKENS), old(TOKENS), atol=1e-5, rtol=1e-4)
    units = some_units(old)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():  # the new task has moved the module's neurons, and no others
        for layer, index, every in neuron_rows(new, units):
            for rows in every:
                view = rows.of(rows.parameter)
                at = orders[layer][index]
                view[at] += 0.05 * torch.randn(view[at].shape, generator=generator)
    assert not torch.allclose(new(TOKENS), old(TOKENS), atol=1e-2)
    trained = weights(new)
    fusion = tlm.training.fuse_pathways(old, new, units)
    expected = [int(orders[layer][at]) for layer, at in zip(units.hook, units.index, strict=True)]
    assert fusion.table["new_unit"].tolist() == expected
    assert fusion.table["similarity"].between(0.9, 1).all()
    assert sorted(fusion.units.index[fusion.units.hook == 1]) == sorted(
        orders[1][units.index[units.hook == 1]].tolist()
    )
    torch.testing.assert_close(new(TOKENS), old(TOKENS), atol=1e-5, rtol=1e-4)
    assert f"{len(units)} units" in repr(fusion)
    assert "similarity" in fusion._repr_html_()
    fusion.restore(new)
    assert not any(where.any() for where in moved(trained, weights(new)).values())


def test_only_the_modules_units_take_the_old_weights_and_as_much_as_asked():
    old, new = tiny_model(), tiny_model()
    units = some_units(old)
    masks = tlm.training.parameter_masks(new, units)
    with torch.no_grad():
        for parameter in new.parameters():
            parameter.mul_(1.5)  # every cosine with itself stays 1
    before = weights(new)
    fusion = tlm.training.fuse_pathways(old, new, units, keep=0.25)
    assert (fusion.table["new_unit"] == fusion.table["unit"]).all()
    np.testing.assert_allclose(fusion.table["similarity"], 1, rtol=1e-6)
    after, theirs = weights(new), weights(old)
    for name, values in after.items():
        mask = masks.get(name, torch.zeros_like(values, dtype=torch.bool))
        assert torch.equal(values[~mask], before[name][~mask])
        expected = 0.25 * theirs[name][mask] + 0.75 * before[name][mask]
        torch.testing.assert_close(values[mask], expected)


def test_what_cannot_be_is_refused(model, other_model):
    with pytest.raises(tlm.ModulesError, match="keep should lie between 0 and 1"):
        tlm.training.fuse_pathways(model, model, some_units(model), keep=1.5)
    with pytest.raises(tlm.ModulesError, match="should be those of the model"):
        tlm.training.fuse_pathways(model, other_model, some_units(model))


def test_a_model_whose_neurons_have_other_weights_is_refused(model):
    units = some_units(model)
    with pytest.raises(tlm.ModulesError, match="should have weights of the same shapes"):
        tlm.training.fuse_pathways(model, tiny_model(gated=False), units)
    broken = tiny_model()
    before = weights(broken)
    _, _, every = next(iter(neuron_rows(broken, units)))
    with torch.no_grad():
        every[0].of(every[0].parameter)[-1] = torch.nan  # no neuron of the module
    with pytest.raises(tlm.ModulesError, match="should be finite"):
        tlm.training.fuse_pathways(model, broken, units)
    changed = moved(before, weights(broken))
    assert sum(int(where.sum()) for where in changed.values()) == every[0].shape[1]
