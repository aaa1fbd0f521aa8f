import numpy as np
import pandas as pd
import pytest
import torch

import tl_modules as tlm
from benchmarks.truth.files import shipped
from benchmarks.truth.loading import load as load_truth
from tests.conftest import long_once
from tests.planted import truth_model
from tl_modules.causal.shared_unit_scores import lower_quartile
from tl_modules.models.gradients import loss_gradients
from tl_modules.models.losses import token_losses

HOOK = "blocks.{}.mlp.hook_post"


def changes_by_hand(model, texts, hooks):
    """Each prompt's mean |change| of a token's loss, and the change of its mean loss."""
    found = []
    for text in texts:
        tokens = model.to_tokens(text)
        mask = torch.ones_like(tokens, dtype=torch.bool)
        with torch.inference_mode():
            clean = token_losses(model(tokens), tokens, mask)
            moved = token_losses(model.run_with_hooks(tokens, fwd_hooks=hooks), tokens, mask)
        found.append([float((moved - clean).abs().mean()), float((moved - clean).mean())])
    return np.mean(found, axis=0)


def test_units_come_by_the_smallest_of_their_measured_changes(model, prompts, acts):
    found = tlm.shared_units(model, prompts, acts, n_units=5, shortlist=12, progress=False).table
    least = found[["measured[animal]", "measured[code]"]].min(axis=1)
    np.testing.assert_array_equal(found["measured"], least)
    assert found["measured"].is_monotonic_decreasing
    every = tlm.shared_units(model, prompts, acts, n_units=12, shortlist=12, progress=False).table
    pd.testing.assert_frame_equal(every.head(5), found)


def test_one_idle_category_of_five_does_not_decide():
    of_all, idle_in_one, of_two = [0.2] * 5, [0.0, 0.5, 0.5, 0.5, 0.5], [0.9, 0.9, 0.0, 0.0, 0.0]
    values = np.array([of_all, idle_in_one, of_two]).T
    assert lower_quartile(values).tolist() == [0.2, 0.5, 0.0]
    assert lower_quartile(values[:4]).tolist() == [0.2, 0.0, 0.0]  # of four the smallest


def test_the_shortlist_comes_from_the_gradients_magnitudes(model, prompts, acts):
    options = {"progress": False, "n_units": len(acts.units), "positions": "all"}
    every = tlm.shared_units(model, prompts, acts, **options).table
    texts = prompts.loc[prompts["category"] == "animal", "prompt"].tolist()
    products = []
    for text in texts:
        tokens = model.to_tokens(text)
        mask = torch.ones_like(tokens, dtype=torch.bool)
        run = loss_gradients(model, tokens, mask, [HOOK.format(1)])
        a, gradient = (part[HOOK.format(1)][0].numpy() for part in run)
        moved = np.abs((acts.unit_means[12:24] - a) * gradient).sum(0)
        products.append(moved / (tokens.shape[1] - 1))
    of_layer = every[every["layer"] == 1].sort_values("unit")
    np.testing.assert_allclose(of_layer["estimate[animal]"], np.mean(products, 0), rtol=1e-3)
    options |= {"n_units": 3, "shortlist": 3}
    listed = tlm.shared_units(model, prompts, acts, **options).table
    expected = every.sort_values("estimate", ascending=False).head(3)
    assert sorted(listed["estimate"].round(6)) == sorted(expected["estimate"].round(6))
    np.testing.assert_allclose(
        every["estimate"], every[["estimate[animal]", "estimate[code]"]].min(axis=1)
    )


@pytest.mark.parametrize("batch_size", [4, 48])
def test_the_changes_are_those_of_ablating_each_alone(model, prompts, acts, modules, batch_size):
    options = {"batch_size": batch_size, "progress": False}
    found = tlm.shared_units(model, prompts, modules, n_units=3, **options)
    assert len(found.table) == 3
    for at in range(3):
        alone = tlm.Module(0, found.units.select(np.array([at])), acts.samples, means=acts)
        row = found.table.iloc[at]
        for name in ("animal", "code"):
            texts = prompts.loc[prompts["category"] == name, "prompt"]
            change, rise = changes_by_hand(model, texts, alone.fwd_hooks(positions="content"))
            assert row[f"measured[{name}]"] == pytest.approx(change, abs=1e-5)
            assert row[f"effect[{name}]"] == pytest.approx(rise, abs=1e-5)
        _, rise = changes_by_hand(model, prompts["prompt"], alone.fwd_hooks(positions="content"))
        assert row["effect"] == pytest.approx(rise, abs=1e-5)
    assert "3 units" in repr(found)


@long_once
@pytest.mark.slow
@pytest.mark.parametrize("name", ["fewshared-0", "hardshared-0"])
def test_shared_units_of_trained_models_are_found(shared, name):
    model, owner, tables, prompts_of = truth_model(shared, name)
    acts = tlm.collect(model, prompts_of(tables, (20,) * 5, 0), batch_size=64, progress=False)
    n = int((owner < 0).sum())
    tested = prompts_of(tables, (20,) * 5, 1)
    options = {"n_units": n, "batch_size": 800, "shortlist": 2 * n, "progress": False}
    found = tlm.shared_units(model, tested, acts, **options)
    assert np.isin(found.units.flat(), np.flatnonzero(owner < 0)).mean() >= 0.9


@pytest.mark.slow
def test_shared_units_of_the_shipped_model_are_found():
    truth = load_truth(next(path for path in shipped() if path.stem == "shared-0"))
    n = int((truth.owners < 0).sum())
    acts = tlm.collect(truth.model, truth.prompts(20, 0), batch_size=64, progress=False)
    options = {"n_units": n, "batch_size": 800, "shortlist": 2 * n, "progress": False}
    found = tlm.shared_units(truth.model, truth.prompts(20, 1), acts, **options)
    assert (truth.owners[found.units.flat()] < 0).mean() >= 0.9


def test_what_cannot_be_estimated_is_refused(model, other_model, prompts, acts):
    bare = tlm.ActivationMatrix.from_arrays(acts.values, acts.units, prompts)
    with pytest.raises(tlm.ModulesError, match="needs the units' mean activations"):
        tlm.shared_units(model, prompts, bare, progress=False)
    with pytest.raises(tlm.ModulesError, match="hook points of width"):
        tlm.shared_units(other_model, prompts, acts, progress=False)
    with pytest.raises(tlm.ModulesError, match="shortlist should be at least n_units=5; got 4"):
        tlm.shared_units(model, prompts, acts, n_units=5, shortlist=4, progress=False)
    with pytest.raises(tlm.ModulesError, match="n_units should be at least 1; got 0"):
        tlm.shared_units(model, prompts, acts, n_units=0)
