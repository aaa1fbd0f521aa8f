import numpy as np
import pytest

import tl_modules as tlm
from tests.causal.test_effects import loss_by_hand
from tl_modules.causal.shared_unit_scores import ablation_attribution

HOOK = "blocks.{}.mlp.hook_post"


@pytest.fixture(scope="module")
def estimates(model, prompts, acts):
    return ablation_attribution(model, prompts, acts, batch_size=5, progress=False)


def test_estimates_are_the_losss_slope_towards_the_mean(model, prompts, acts, estimates):
    found, names = estimates
    assert names == ["animal", "code"]
    step = 1e-2
    for layer, unit in ((0, 2), (2, 9)):
        column = 12 * layer + unit
        mean = float(acts.unit_means[column])

        def towards(activation, hook, share=step, unit=unit, mean=mean):
            result = activation.clone()
            result[..., unit] += share * (mean - activation[..., unit])
            return result

        def away(activation, hook, towards=towards):
            return towards(activation, hook, share=-step)

        for row, name in enumerate(names):
            texts = prompts.loc[prompts["category"] == name, "prompt"]
            slopes = [
                (
                    loss_by_hand(model, text, [(HOOK.format(layer), towards)])
                    - loss_by_hand(model, text, [(HOOK.format(layer), away)])
                )
                / (2 * step)
                for text in texts
            ]
            assert found[row, column] == pytest.approx(np.mean(slopes), rel=0.05, abs=2e-5)


def test_estimates_do_not_depend_on_the_batch(model, prompts, acts, estimates):
    other, _ = ablation_attribution(model, prompts, acts, batch_size=1, progress=False)
    np.testing.assert_allclose(other, estimates[0], atol=1e-5)


def test_units_come_by_the_smallest_of_their_estimates(model, prompts, acts, estimates):
    found = tlm.shared_units(model, prompts, acts, n_units=5, positions="all", progress=False)
    expected = np.argsort(-estimates[0].min(axis=0))[:5]
    assert found.units.flat().tolist() == expected.tolist()
    np.testing.assert_allclose(found.table["least"], estimates[0].min(axis=0)[expected], atol=1e-5)


def test_the_effects_are_those_of_ablating_each_alone(model, prompts, acts, modules):
    found = tlm.shared_units(model, prompts, modules, n_units=3, progress=False)
    assert len(found.table) == 3
    for at in range(3):
        alone = tlm.Module(0, found.units.select(np.array([at])), acts.samples, means=acts)
        for name in ("animal", "code"):
            texts = prompts.loc[prompts["category"] == name, "prompt"]
            rises = [
                loss_by_hand(model, text, alone.fwd_hooks(positions="content"))
                - loss_by_hand(model, text)
                for text in texts
            ]
            assert found.table[f"effect[{name}]"].iloc[at] == pytest.approx(
                np.mean(rises), abs=1e-5
            )
    least = found.table[["estimate[animal]", "estimate[code]"]].min(axis=1)
    np.testing.assert_allclose(found.table["least"], least)
    assert "3 units" in repr(found)


def test_what_cannot_be_estimated_is_refused(model, other_model, prompts, acts):
    bare = tlm.ActivationMatrix.from_arrays(acts.values, acts.units, prompts)
    with pytest.raises(tlm.ModulesError, match="needs the units' mean activations"):
        tlm.shared_units(model, prompts, bare, progress=False)
    with pytest.raises(tlm.ModulesError, match="hook points of width"):
        tlm.shared_units(other_model, prompts, acts, progress=False)
    with pytest.raises(tlm.ModulesError, match="n_units should be at least 1; got 0"):
        tlm.shared_units(model, prompts, acts, n_units=0)
