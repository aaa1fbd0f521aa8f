"""Effects of modules on modules, on a random model: what any graph should obey."""

import networkx
import numpy as np
import pytest
import torch

import tl_modules as tlm
from tests.causal.test_patching import difference, each


def graph(model, clean, corrupted, modules, metric=each, n_controls=2, **options):
    options = {"n_controls": n_controls, "progress": False} | options
    return tlm.module_graph(model, clean, corrupted, metric, modules, **options)


@pytest.fixture(scope="module")
def found(model, clean, corrupted, modules):
    return graph(model, clean, corrupted, modules, n_controls=4)


def test_effects_on_the_metric_are_those_of_patching(found, model, clean, corrupted, modules):
    with torch.inference_mode():
        cache = model.run_with_cache(clean)[1]
        plain = difference(model(corrupted))
    patched = tlm.get_act_patch_module(model, corrupted, cache, difference, modules, progress=False)
    np.testing.assert_allclose(found.nodes["effect"], patched - plain, rtol=1e-4, atol=1e-6)
    assert found.metric_corrupted == pytest.approx(float(plain), rel=1e-4)


def test_an_edge_is_the_share_of_the_targets_change(found, model, clean, corrupted, modules):
    names = list(modules.units.hook_names)
    with torch.inference_mode():
        one = model.run_with_cache(clean)[1]
        other = model.run_with_cache(corrupted)[1]
        seen = {}

        def keep(activation, hook, name):
            seen[name] = activation.clone()

        hooks = [(name, lambda a, hook, n=name: keep(a, hook, n)) for name in names]
        patch = modules[0].fwd_hooks("patch", source=one)
        model.run_with_hooks(corrupted, fwd_hooks=[*hooks, *patch])
    moved = whole = 0.0
    for name, index in modules[2].units.neurons().items():
        change = (one[name] - other[name])[..., index]
        moved += float(((seen[name] - other[name])[..., index] * change).sum())
        whole += float((change**2).sum())
    assert found.matrix().loc[0, 2] == pytest.approx(moved / whole, rel=1e-4)


def test_every_pair_has_an_edge_with_interval_and_controls(found):
    assert found.edges[["source", "target"]].drop_duplicates().shape == (6, 2)
    assert (found.edges["ci_low"] <= found.edges["effect"]).all()
    assert (found.edges["effect"] <= found.edges["ci_high"]).all()
    assert found.edges["p_value"].between(1 / 5, 1).all()
    assert (found.edges["p_bh"] >= found.edges["p_value"]).all()
    assert found.edges["control_std"].gt(0).all()
    assert "3 modules" in repr(found)


def test_controls_of_whole_layers_are_the_layers_themselves(model, clean, corrupted, modules):
    parts = [
        tlm.Module(layer, modules.units.select(modules.units.hook == layer), modules[0].samples)
        for layer in range(3)
    ]
    found = graph(model, clean, corrupted, parts)
    assert (found.nodes["control_units"] == found.nodes["n_units"]).all()
    assert (found.nodes["p_value"] == 1).all()
    assert (found.edges["p_value"] == 1).all()


def test_one_prompt_has_no_interval(model, clean, corrupted, modules):
    found = graph(model, clean[:1], corrupted[:1], modules)
    assert found.edges["effect"].notna().all()
    assert found.edges["ci_low"].isna().all()


def test_the_last_layer_drives_nothing(model, clean, corrupted, modules):
    last = [
        tlm.Module(module.label, module.units.select(module.units.hook == 2), module.samples)
        for module in modules
    ]
    edges = graph(model, clean, corrupted, last).edges
    np.testing.assert_allclose(edges["effect"], 0, atol=1e-5)


def test_direct_effects_leave_out_what_passes_through_other_units(model, clean, corrupted, modules):
    # From layer 0 to layer 1 nothing lies between; to layer 2 something does.
    parts = [
        tlm.Module(layer, modules.units.select(modules.units.hook == layer), modules[0].samples)
        for layer in range(3)
    ]
    total, direct = (
        graph(model, clean, corrupted, parts, direct=choice).matrix() for choice in (False, True)
    )
    assert direct.loc[0, 1] == pytest.approx(total.loc[0, 1], rel=1e-4)
    assert abs(direct.loc[0, 2] - total.loc[0, 2]) > 1e-4


@pytest.mark.parametrize("batch_size", [1, 5, 64])
def test_how_many_share_a_pass_does_not_matter(model, clean, corrupted, modules, found, batch_size):
    other = graph(model, clean, corrupted, modules, n_controls=4, batch_size=batch_size)
    for name in ("effect", "control_mean", "ci_low"):
        np.testing.assert_allclose(other.edges[name], found.edges[name], rtol=1e-3, atol=1e-5)


def test_padding_counts_for_nothing(model, modules):
    texts = ["the cat sat on the mat", "the dog ran"], ["the cat ran on the tree", "the bird sat"]
    runs = []
    for pair in texts:
        rows = [model.to_tokens(text)[0] for text in pair]
        runs.append(torch.nn.utils.rnn.pad_sequence(rows, batch_first=True))
    mask = torch.ones_like(runs[0])
    mask[1, 4:] = 0
    padded = graph(
        model,
        *runs,
        modules,
        metric=lambda logits: logits[torch.arange(2), torch.tensor([6, 3]), 5],
        attention_mask=mask,
        n_controls=0,
    )
    noisy = [run.clone() for run in runs]
    noisy[0][1, 4:] = 7
    other = graph(
        model,
        *noisy,
        modules,
        metric=lambda logits: logits[torch.arange(2), torch.tensor([6, 3]), 5],
        attention_mask=mask,
        n_controls=0,
    )
    np.testing.assert_allclose(padded.edges["effect"], other.edges["effect"], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(padded.nodes["effect"], other.nodes["effect"], rtol=1e-4, atol=1e-6)
    assert padded.edges["p_value"].isna().all()


def test_networkx_gets_nodes_and_edges(found):
    made = found.to_networkx()
    assert isinstance(made, networkx.DiGraph)
    assert sorted(made.nodes) == [0, 1, 2]
    row = found.edges.iloc[3]
    edge = made.edges[int(row["source"]), int(row["target"])]
    assert edge["weight"] == edge["effect"] == row["effect"]
    assert made.nodes[1]["n_units"] == found.nodes.loc[1, "n_units"]


def test_no_hook_stays(found, model):
    del found
    assert not any(point._forward_hooks for point in model.hook_dict.values())


def test_what_makes_no_graph_is_refused(model, other_model, clean, corrupted, modules):
    with pytest.raises(tlm.ModulesError, match="number of modules should be at least 2; got 1"):
        graph(model, clean, corrupted, [modules[0]])
    with pytest.raises(tlm.ModulesError, match="should have one shape"):
        graph(model, clean[:, :4], corrupted, modules)
    with pytest.raises(tlm.ModulesError, match="one number per prompt"):
        graph(model, clean, corrupted, modules, metric=difference)
    empty = tlm.Module(9, modules.units.select(np.empty(0, dtype=int)), modules[0].samples)
    with pytest.raises(tlm.ModulesError, match="module 9 has none"):
        graph(model, clean, corrupted, [modules[0], empty])
    with pytest.raises(tlm.ModulesError, match="should differ between the runs"):
        graph(model, clean, clean, modules)
    with pytest.raises(tlm.ModulesError, match="hook points of width"):
        graph(other_model, clean, corrupted, modules)
