"""Units of every site: collected, discovered, and put through every causal test."""

import numpy as np
import pytest
import torch

import tl_modules as tlm
from tests.causal.test_patching import difference, each
from tests.conftest import unsaid

WIDTHS = {"mlp": 12, "attn_heads": 2, "attn_z": 16, "resid": 16}
ALL = [*WIDTHS, "mlp+attn_heads", "attn_z+resid"]
Z = "blocks.{}.attn.hook_z"


@pytest.fixture(scope="module", params=ALL)
def site(request):
    return request.param


@pytest.fixture(scope="module")
def of_site(model, prompts, site):
    """Activations at a site, and modules of them."""
    acts = tlm.collect(model, prompts, units=site, progress=False)
    return acts, tlm.discover(acts, 2)


def tokens(model, text="the cat sat on the mat"):
    return model.to_tokens(text)


def test_every_layer_has_its_units(of_site, site):
    acts, modules = of_site
    assert acts.values.shape[1] == 3 * sum(WIDTHS[name] for name in site.split("+"))
    assert acts.units.site == site
    assert modules.units.to_frame()["layer"].nunique() == 3


def test_a_heads_activation_is_the_length_of_its_output(model, prompts):
    acts = tlm.collect(model, prompts, units="attn_heads", progress=False)
    text = prompts["prompt"][3]
    with torch.inference_mode():
        z = model.run_with_cache(tokens(model, text))[1][Z.format(1)]
    z = z.reshape(z.shape[1], 2, 8)
    np.testing.assert_allclose(acts.values[3, 2:4], z.norm(dim=-1).mean(0), rtol=1e-4)
    by_dimension = tlm.collect(model, prompts, units="attn_z", progress=False)
    np.testing.assert_allclose(
        by_dimension.values[3, 16:32], z.reshape(-1, 16).abs().mean(0), rtol=1e-4
    )
    # Both know the mean of each of a head's dimensions, to put in its place.
    np.testing.assert_allclose(acts.unit_means, by_dimension.unit_means, rtol=1e-5, atol=1e-7)


def test_combinations_are_their_parts_side_by_side(model, prompts):
    both = tlm.collect(model, prompts, units="mlp+attn_heads", progress=False)
    parts = [
        tlm.collect(model, prompts, units=name, progress=False) for name in ("mlp", "attn_heads")
    ]
    np.testing.assert_allclose(
        both.values, np.concatenate([part.values for part in parts], axis=1), rtol=1e-5
    )
    means = np.concatenate([part.unit_means for part in parts])
    np.testing.assert_allclose(both.unit_means, means, rtol=1e-5, atol=1e-7)


def test_caches_give_the_same(model, prompts, of_site, site):
    acts, _ = of_site
    collector = tlm.Collector(model, units=site)
    for text in prompts["prompt"][:3]:
        with torch.inference_mode():
            _, cache = model.run_with_cache(
                tokens(model, text), names_filter=collector.names_filter
            )
        collector.add(cache)
    np.testing.assert_allclose(collector.matrix().values, acts.values[:3], rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("method", ["zero", "mean", "scale", "resample", "position_mean"])
def test_every_method_silences_whole_units(model, prompts, of_site, site, method):
    acts, modules = of_site
    reference = tlm.collect_reference(model, prompts, units=site, progress=False)
    options = {"factor": 0.5} if method == "scale" else {}
    kept = {}
    hooks = modules[0].fwd_hooks(method, reference, **options)
    reads = [
        (name, lambda a, hook, n=name: kept.update({n: a.detach().clone()}))
        for name in acts.units.hook_names
    ]
    with torch.inference_mode():
        plain = model.run_with_cache(tokens(model))[1]
        model.run_with_hooks(tokens(model), fwd_hooks=[*hooks, *reads])
    own = modules[0].units.coordinates()
    # The first hook point that a run reaches: nothing before it was touched.
    first = Z.format(0) if Z.format(0) in acts.units.hook_names else acts.units.hook_names[0]
    at = acts.units.hook_names.index(first)
    index = own.neurons().get(first, np.empty(0, dtype=int))
    before, after = plain[first].flatten(2)[0].numpy(), kept[first].flatten(2)[0].numpy()
    others = np.setdiff1d(np.arange(before.shape[1]), index)
    np.testing.assert_array_equal(after[:, others], before[:, others])
    if method == "zero":
        assert (after[:, index] == 0).all()
    if method == "scale":
        np.testing.assert_allclose(after[:, index], before[:, index] / 2, rtol=1e-5)
    if method == "mean":
        means = reference.unit_means[own.flat()][own.hook == at]
        np.testing.assert_allclose(after[:, index], np.tile(means, (len(after), 1)), rtol=1e-4)
    if method == "resample" and len(index):
        pool = reference.tokens[:, own.flat()][:, own.hook == at].astype(np.float32)
        assert all((np.abs(pool - row).max(1) < 1e-6).any() for row in after[:, index])


def test_no_change_changes_nothing(model, of_site):
    _, modules = of_site
    hooks = modules[0].fwd_hooks("scale", factor=1.0)
    with torch.inference_mode():
        assert torch.equal(
            model.run_with_hooks(tokens(model), fwd_hooks=hooks), model(tokens(model))
        )


@unsaid
def test_effects_have_controls(model, prompts, of_site):
    _, modules = of_site
    found = tlm.module_effects(model, modules, prompts, n_controls=2, progress=False)
    assert np.isfinite(found["effect"]).all()
    assert found["effect"].abs().max() > 1e-4
    for kind in ("magnitude", "attribution"):
        found = tlm.module_effects(
            model, modules, prompts, n_controls=2, controls=kind, progress=False
        )
        assert np.isfinite(found["control_mean"]).all()
        assert (found["control_units"] == found["n_units"]).all()


def test_patching_every_unit_is_patching_the_hook_points(model, clean, corrupted, of_site):
    acts, modules = of_site
    with torch.inference_mode():
        cache = model.run_with_cache(clean)[1]
        hooks = [(name, lambda a, hook, n=name: cache[n]) for name in acts.units.hook_names]
        expected = difference(model.run_with_hooks(corrupted, fwd_hooks=hooks))
    every = tlm.Module(0, acts.units, acts.samples)
    found = tlm.get_act_patch_module(model, corrupted, cache, difference, every, progress=False)
    torch.testing.assert_close(found[0], expected)
    by_layer = tlm.get_act_patch_module_by_layer(
        model, corrupted, cache, difference, modules, progress=False
    )
    assert by_layer.shape == (2, 3)


def test_attributions_are_of_units(model, clean, corrupted, of_site):
    acts, modules = of_site
    found = tlm.attribute_modules(model, clean, corrupted, difference, modules)
    assert found.unit_scores.shape == (len(acts.units),)
    _, one = model.run_with_cache(clean)
    _, other = model.run_with_cache(corrupted)
    # A small step of one unit towards the clean run, by hand.
    unit = acts.units.select(np.array([1])).coordinates()
    name = acts.units.hook_names[0]
    change = (one[name] - other[name]).detach().flatten(2)[..., unit.index.tolist()]
    values = []
    for step in (1e-2, -1e-2):

        def shift(activation, hook, step=step):
            result = activation.clone(memory_format=torch.contiguous_format)
            result.flatten(2)[..., unit.index.tolist()] += step * change
            return result

        with torch.inference_mode():
            values.append(difference(model.run_with_hooks(corrupted, fwd_hooks=[(name, shift)])))
    slope = float(values[0] - values[1]) / 2e-2
    assert found.unit_scores[1] == pytest.approx(slope, rel=5e-2, abs=2e-4)


def test_graphs_and_circuits(model, clean, corrupted, of_site):
    acts, _ = of_site
    modules = [
        tlm.Module(k, acts.units.select(np.arange(len(acts.units)) % 2 == k), acts.samples)
        for k in range(2)
    ]
    options = {"n_controls": 1, "progress": False}
    graph = tlm.module_graph(model, clean, corrupted, each, modules, **options)
    assert np.isfinite(graph.edges["effect"]).all()
    every = tlm.circuit_scores(model, clean, corrupted, each, modules, [0, 1], **options)
    assert every.faithfulness == pytest.approx(1, abs=1e-4)


def test_files_keep_the_site(of_site, site, tmp_path, model):
    acts, modules = of_site
    acts.save(tmp_path / "acts.safetensors")
    modules.save(tmp_path / "modules.safetensors")
    again = tlm.ModuleSet.load(tmp_path / "modules.safetensors")
    assert tlm.ActivationMatrix.load(tmp_path / "acts.safetensors").units.site == site
    assert again.units.same_hooks(modules.units)
    again.units.check_model(model)


def test_a_store_holds_any_site(model, prompts, tmp_path, site):
    store = tlm.collect(model, prompts, units=site, store=tmp_path / "store", progress=False)
    matrix = tlm.collect(model, prompts, units=site, progress=False)
    loaded = store.matrix()
    order = loaded.samples["row"].to_numpy()
    np.testing.assert_allclose(loaded.values, matrix.values[order], rtol=2e-3, atol=1e-6)
    np.testing.assert_allclose(loaded.unit_means, matrix.unit_means, rtol=1e-5, atol=1e-7)


def test_attribution_weights_are_of_units(model, prompts, of_site, site):
    acts, _ = of_site
    found = tlm.collect(model, prompts, units=site, weight="attribution", progress=False)
    assert found.values.shape == acts.values.shape
    np.testing.assert_allclose(found.unit_means, acts.unit_means, rtol=1e-4, atol=1e-6)


@unsaid
def test_controls_are_matched_on_the_modules_own_units(model, prompts):
    heads = tlm.discover(tlm.collect(model, prompts, units="attn_heads", progress=False), 2)
    other = tlm.collect(model, prompts, units="attn_z", progress=False)
    options = {"reference": other, "n_controls": 1, "progress": False}
    # Its means are those of the same dimensions, but it knows nothing of heads.
    found = tlm.module_effects(model, heads, prompts, **options)
    np.testing.assert_allclose(
        found["effect"],
        tlm.module_effects(model, heads, prompts, n_controls=1, progress=False)["effect"],
        atol=1e-5,
    )
    with pytest.raises(tlm.ModulesError, match="a reference of the modules' own units"):
        tlm.module_effects(model, heads, prompts, controls="attribution", **options)
    scored = tlm.discover(other, 2)
    like = {"n_controls": 1, "progress": False, "controls": "magnitude"}
    by_own = tlm.module_effects(model, heads, prompts, **like)
    by_other = tlm.module_effects(model, heads, prompts, reference=scored, **like)
    np.testing.assert_allclose(by_own["control_mean"], by_other["control_mean"], atol=1e-5)


def test_a_cache_without_its_batch_axis_is_refused(model, of_site):
    acts, _ = of_site
    every = tlm.Module(0, acts.units, acts.samples)
    with torch.inference_mode():
        _, cache = model.run_with_cache(tokens(model), remove_batch_dim=True)
        with pytest.raises(tlm.ModulesError, match="keep the batch axis"):
            model.run_with_hooks(tokens(model), fwd_hooks=every.fwd_hooks("patch", source=cache))


def test_units_made_by_hand_need_no_whole_site(model):
    tlm.Units.whole(("blocks.1.hook_resid_post",), (1,), (16,)).check_model(model)


def test_what_is_no_site_is_refused(model, other_model, prompts):
    with pytest.raises(tlm.ModulesError, match="units should be one of 'mlp', 'attn_heads'"):
        tlm.collect(model, prompts, units="mlp+keys", progress=False)
    with pytest.raises(tlm.ModulesError, match="should have different hook points"):
        tlm.collect(model, prompts, units="attn_heads+attn_z", progress=False)
    modules = tlm.discover(tlm.collect(model, prompts, units="attn_heads", progress=False), 2)
    with pytest.raises(tlm.ModulesError, match="hook points of width"):
        modules[0].units.check_model(other_model)


@pytest.mark.slow
def test_heads_and_neurons_of_the_real_model(demo_model):
    prompts = ["The capital of France is", "Two plus two equals", "Once upon a time there"]
    acts = tlm.collect(demo_model, prompts, units="mlp+attn_heads", progress=False)
    assert acts.values.shape == (3, 30 * (1536 + 9))
    modules = tlm.discover(acts, 2)
    heads = modules.units.select(np.arange(len(acts.units)) >= 30 * 1536)
    every_head = tlm.Module(0, heads, acts.samples, means=acts)
    tokens = demo_model.to_tokens(prompts[0])
    with torch.inference_mode():
        plain = demo_model(tokens)
        by_hand = [(Z.format(layer), lambda z, hook: torch.zeros_like(z)) for layer in range(30)]
        expected = demo_model.run_with_hooks(tokens, fwd_hooks=by_hand)
        with every_head.ablated(demo_model, method="zero"):
            found = demo_model(tokens)
    torch.testing.assert_close(found, expected, atol=1e-3, rtol=1e-3)
    assert (found - plain).abs().max() > 1
