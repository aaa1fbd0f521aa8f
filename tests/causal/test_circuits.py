"""Circuits of modules on a random model: what faithfulness and its kin should obey."""

import numpy as np
import pytest
import torch

import tl_modules as tlm
from tests.causal.test_patching import difference, each


@pytest.fixture(scope="module")
def four(model):
    """Four pairs, enough to halve."""
    clean = ["the cat sat on the mat", "one plus two equals three :", "the dog ran over a tree"]
    corrupted = ["the dog ran over the house", "two minus one equals two =", "a cat sat on the mat"]
    fourth = "red bird flew under big tree"
    return tuple(
        torch.cat([model.to_tokens(text) for text in texts])
        for texts in ([*clean, fourth], [*corrupted, fourth[4:] + " and"])
    )


def scores(model, clean, corrupted, modules, circuit, metric=each, **options):
    options = {"n_controls": 2, "progress": False} | options
    return tlm.circuit_scores(model, clean, corrupted, metric, modules, circuit, **options)


def test_all_modules_are_faithful_and_none_are_not(model, clean, corrupted, modules):
    every = scores(model, clean, corrupted, modules, [0, 1, 2])
    none = scores(model, clean, corrupted, modules, [])
    assert every.faithfulness == pytest.approx(1, abs=1e-5)
    assert every.completeness == pytest.approx(1, abs=1e-5)
    assert none.faithfulness == pytest.approx(0, abs=1e-5)
    assert none.completeness == pytest.approx(0, abs=1e-5)
    assert len(none.minimality) == 0


def test_faithfulness_is_the_metrics_share_when_the_rest_is_patched(
    model, clean, corrupted, modules
):
    found = scores(model, clean, corrupted, modules, [2, 0])
    with torch.inference_mode():
        other = model.run_with_cache(corrupted)[1]

        def without(*labels):
            hooks = [pair for k in labels for pair in modules[k].fwd_hooks("patch", source=other)]
            return float(difference(model.run_with_hooks(clean, fwd_hooks=hooks)))

        full, empty = without(), without(0, 1, 2)
        expected = (without(1) - empty) / (full - empty)
        left = 1 - (without(0, 2) - empty) / (full - empty)
        drop = expected - (without(1, 2) - empty) / (full - empty)
    assert found.circuit == (0, 2)
    assert found.faithfulness == pytest.approx(expected, rel=1e-3)
    assert found.completeness == pytest.approx(left, rel=1e-3)
    assert found.minimality.set_index("module").loc[2, "effect"] == pytest.approx(drop, rel=1e-3)
    assert (found.metric_full, found.metric_empty) == pytest.approx((full, empty), rel=1e-4)


def test_controls_deal_the_layers_units_out_anew(model, clean, corrupted, modules):
    found = scores(model, clean, corrupted, modules, [1], n_controls=6)
    assert found.table["control_std"].gt(0).all()
    assert found.table["p_value"].between(1 / 7, 1).all()
    # Modules that are whole layers look the same however units are dealt out within a layer.
    layers = [
        tlm.Module(layer, modules.units.select(modules.units.hook == layer), modules[0].samples)
        for layer in range(3)
    ]
    same = scores(model, clean, corrupted, layers, [1], n_controls=6)
    np.testing.assert_allclose(same.table["control_mean"], same.table["effect"], rtol=1e-4)
    assert same.table["p_value"].eq(1).all()


def test_units_in_no_module_are_left_alone(model, clean, corrupted, modules):
    found = scores(model, clean, corrupted, [modules[0], modules[1]], [0])
    with torch.inference_mode():
        other = model.run_with_cache(corrupted)[1]
        hooks = [pair for k in (0, 1) for pair in modules[k].fwd_hooks("patch", source=other)]
        empty = float(difference(model.run_with_hooks(clean, fwd_hooks=hooks)))
    assert found.metric_empty == pytest.approx(empty, rel=1e-4)


def test_the_greedy_path_takes_the_nearest_to_one_and_ends_there(model, four, modules):
    clean, corrupted = four
    options = {"n_controls": 2, "progress": False}
    found = tlm.greedy_circuit(model, clean, corrupted, each, modules, held_out=False, **options)
    assert found["step"].tolist() == [1, 2, 3]
    assert sorted(found["module"]) == [0, 1, 2]
    np.testing.assert_allclose(found["chosen_on"], found["effect"])
    single = [
        abs(scores(model, clean, corrupted, modules, [k], n_controls=0).faithfulness - 1)
        for k in range(3)
    ]
    assert found["module"][0] == int(np.argmin(single))
    assert found["effect"][2] == pytest.approx(1, abs=1e-5)
    assert found["p_value"][2] == 1  # so is every control
    two = scores(model, clean, corrupted, modules, found["module"][:2].tolist(), n_controls=0)
    assert found["effect"][1] == pytest.approx(two.faithfulness, rel=1e-4)


def test_what_was_chosen_is_reported_on_other_prompts(model, four, modules):
    clean, corrupted = four
    options = {"n_controls": 1, "progress": False}
    found = tlm.greedy_circuit(model, clean, corrupted, each, modules, seed=3, **options)
    order = np.random.default_rng(3).permutation(4)
    chosen, held = (np.sort(part) for part in (order[:2], order[2:]))
    first = [int(found["module"][0])]
    for rows, column in ((chosen, "chosen_on"), (held, "effect")):
        one = scores(model, clean[rows], corrupted[rows], modules, first, n_controls=0)
        assert found[column][0] == pytest.approx(one.faithfulness, rel=1e-3)
    short = tlm.greedy_circuit(model, clean, corrupted, each, modules, n_steps=1, **options)
    assert len(short) == 1


def test_controls_are_the_best_of_several_too(model, four, modules):
    clean, corrupted = four
    options = {"held_out": False, "n_steps": 1, "progress": False, "seed": 1}
    found = tlm.greedy_circuit(model, clean, corrupted, each, modules, n_controls=5, **options)
    # Each control by hand: the best of its three pseudo-modules.
    generator = np.random.default_rng([1, 1])
    best = []
    for _ in range(5):
        labels = modules.unit_labels.copy()
        for layer in range(3):
            inside = np.flatnonzero(modules.units.hook == layer)
            labels[inside] = generator.permutation(labels[inside])
        dealt = [
            tlm.Module(k, modules.units.select(labels == k), modules[0].samples) for k in range(3)
        ]
        alone = [
            scores(model, clean, corrupted, dealt, [k], n_controls=0).faithfulness for k in range(3)
        ]
        best.append(min(alone, key=lambda share: abs(share - 1)))
    assert found["control_mean"][0] == pytest.approx(np.mean(best), rel=1e-3)


def test_a_metric_may_hold_parameters(model, clean, corrupted, modules):
    probe = torch.nn.Linear(model.cfg.d_vocab, 1)
    found = scores(
        model, clean, corrupted, modules, [0], metric=lambda logits: probe(logits[:, -1])[:, 0]
    )
    assert np.isfinite(found.faithfulness)


def test_an_empty_circuit_has_an_empty_minimality(model, clean, corrupted, modules):
    found = scores(model, clean, corrupted, modules, [])
    assert found.minimality["effect"].tolist() == []


def test_no_hook_stays(model, clean, corrupted, modules):
    scores(model, clean, corrupted, modules, [0])
    assert not any(point._forward_hooks for point in model.hook_dict.values())


def test_what_is_no_circuit_is_refused(model, clean, corrupted, modules):
    with pytest.raises(tlm.ModulesError, match=r"labels of the modules, \[0, 1, 2\]; got 7"):
        scores(model, clean, corrupted, modules, [7])
    with pytest.raises(tlm.ModulesError, match="Pass corrupted_tokens, or use method='mean'"):
        scores(model, clean, None, modules, [0])
    with pytest.raises(tlm.ModulesError, match="clean_tokens and corrupted_tokens should differ"):
        scores(model, clean, clean, modules, [0])
    with pytest.raises(tlm.ModulesError, match="Ablating all 36 units should change the metric"):
        scores(model, clean, corrupted, modules, [0], metric=lambda logits: logits[:, 0, 0] * 0 + 2)
    with pytest.raises(tlm.ModulesError, match="metric should be finite"):
        scores(model, clean, corrupted, modules, [0], metric=lambda logits: logits[:, 0, 0] / 0)
    twice = [modules[0], tlm.Module(9, modules[0].units, modules[0].samples)]
    with pytest.raises(tlm.ModulesError, match="should share no unit; module 9"):
        scores(model, clean, corrupted, twice, [0])
    with pytest.raises(tlm.ModulesError, match="Tokens should have shape batch x pos"):
        scores(model, clean[:0], corrupted[:0], modules, [0])
    with pytest.raises(tlm.ModulesError, match="attention_mask should have the tokens' shape"):
        scores(model, clean, corrupted, modules, [0], attention_mask=clean[:, :3] > 0)
    with pytest.raises(tlm.ModulesError, match="method should be one of 'patch', 'mean', 'zero'"):
        scores(model, clean, corrupted, modules, [0], method="scale")
    with pytest.raises(tlm.ModulesError, match="held_out=True needs at least four prompts"):
        tlm.greedy_circuit(model, clean, corrupted, each, modules, progress=False)
    with pytest.raises(tlm.ModulesError, match="n_steps should be at least 1; got 0"):
        tlm.greedy_circuit(model, clean, corrupted, each, modules, n_steps=0, progress=False)
