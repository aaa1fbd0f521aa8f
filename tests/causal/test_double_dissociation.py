"""Double dissociation, on a model where it can be planted and on numbers where it can be seen."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

import tl_modules as tlm
from tl_modules.causal.double_dissociation import _outcome
from tl_modules.causal.experiment import Experiment, Outcome
from tl_modules.causal.trials import Trial
from tl_modules.tables.strata import draw_like


def experiment(module, p, q, noise=0.1, n_controls=39, n_prompts=10):
    """Rises with these means on A and B, and controls around 0."""
    generator = np.random.default_rng(0)
    outcomes = []
    for means in (p, q):
        rises = noise * generator.normal(size=(1 + n_controls, 2 * n_prompts))
        rises[0] += np.repeat(means, n_prompts)
        trial = Trial(module.label, None, 3, [3] * n_controls)
        outcomes.append(Outcome(trial, rises))
    return Experiment(np.repeat(["A", "B"], n_prompts), np.zeros(2 * n_prompts), outcomes)


def test_opposite_preferences_are_a_double_dissociation(modules):
    found = _outcome(experiment(modules[0], (2.0, 0.5), (0.5, 1.5)), seed=0)
    assert found.is_double
    effects = found.contrasts["effect"]
    assert effects["P: A - B"] == pytest.approx(1.5, abs=0.1)
    assert effects["Q: B - A"] == pytest.approx(1.0, abs=0.1)
    assert effects["interaction"] == pytest.approx(effects.iloc[0] + effects.iloc[1])
    assert (found.contrasts["p_value"] == 1 / 40).all()
    assert (found.contrasts["ci_low"] > 0).all()
    assert found.effects["n"].tolist() == [10] * 4
    assert "double dissociation" in repr(found)


@pytest.mark.parametrize(
    ("p", "q"),
    [
        ((2.0, 0.5), (1.5, 0.5)),  # both hurt A more: A is the harder set
        ((2.0, 0.5), (0.5, 0.5)),  # one prefers, the other does not
        ((0.0, 0.0), (0.0, 0.0)),
        ((-0.1, -1.0), (-1.0, -0.1)),  # ablation helps everywhere, here more than there
    ],
)
def test_a_single_preference_is_none(modules, p, q):
    found = _outcome(experiment(modules[0], p, q), seed=0)
    assert not found.is_double
    assert "no double" in repr(found)


def test_modules_whose_controls_prefer_alike_are_none(modules):
    # The sets differ in what any ablation does to them.
    given = experiment(modules[0], (2.0, 0.5), (0.5, 2.0))
    given.outcomes[0].rises[1:, :10] += 1.5
    assert not _outcome(given, seed=0).is_double


def test_effects_on_a_model_are_those_of_module_effects(model, modules, prompts):
    a, b = (prompts[prompts["category"] == name] for name in ("animal", "code"))
    options = {"n_controls": 19, "progress": False, "seed": 2}
    found = tlm.dissociation(model, modules[0], modules[1], a, b, **options)
    both = pd.concat([a.assign(category="A"), b.assign(category="B")], ignore_index=True)
    for name, module in (("P", modules[0]), ("Q", modules[1])):
        # The label seeds the controls, and both draw theirs alike.
        own = replace(module, label=0, own_category="A")
        expected = tlm.module_effects(model, own, both, **options)
        rows = found.effects[found.effects["module"] == name]
        for column in ("effect", "ci_low", "ci_high", "control_mean", "p_value"):
            np.testing.assert_allclose(rows[column], expected[column], atol=1e-6)


def test_one_module_cannot_be_held_against_itself(model, modules, prompts):
    twin = replace(modules[0], label=7)
    with pytest.raises(tlm.ModulesError, match="should be two modules"):
        tlm.dissociation(model, modules[0], twin, prompts, prompts)
    with pytest.raises(tlm.ModulesError, match="n_controls should be at least 19; got 5"):
        tlm.dissociation(model, modules[0], modules[1], prompts, prompts, n_controls=5)


def test_controls_of_two_modules_share_no_unit_if_the_modules_share_none():
    """Else the interaction of random halves passes too often: pairs of controls vary less."""
    strata = [np.arange(40), np.arange(40, 100)]
    chosen = np.arange(100) % 2 == 0
    drawn = [draw_like(strata, each, np.random.default_rng([3, 0])) for each in (chosen, ~chosen)]
    assert np.array_equal(np.sort(np.concatenate(drawn)), np.arange(100))
