import numpy as np
import pandas as pd
import pytest
import torch

import tl_modules as tlm
from tests.conftest import tiny_model
from tests.interpret.toys import ByToken
from tl_modules.interpret import language_neurons
from tl_modules.interpret.language_neurons import lape

QUIET = {"progress": False}
NEURONS = "blocks.0.mlp.hook_post"


@pytest.fixture
def by_hand():
    """Four neurons; tokens 1 to 4 are German, 5 to 8 English."""
    active = torch.zeros(9, 4)
    active[1:5, 0] = 1  # on every German token
    active[1:, 1] = 1  # on every token
    active[1:3, 2] = 1  # on half of the German tokens
    active[1:4, 3] = 1  # on three of four German tokens,
    active[5, 3] = 1  # and on one of four English ones
    return ByToken({NEURONS: (2 * active - 1).tolist()})


PROMPTS = pd.DataFrame(
    {"prompt": ["0 1 2 3", "0 4", "0 5", "0 6 7 8"], "category": ["de", "de", "en", "en"]}
)


def test_entropies_and_specific_neurons_as_worked_out_by_hand(by_hand):
    # Of 0, 0, 0.25, 0.5, 0.75, 1, 1, 1 half are at most 0.5.
    found = language_neurons(by_hand, PROMPTS, n_neurons=2, quantile=0.5, **QUIET)
    assert found.threshold == 0.5
    rows = found.units.to_dict("records")
    assert [(row["category"], row["unit"]) for row in rows] == [("de", 0), ("de", 3)]
    assert [row["probability"] for row in rows] == pytest.approx([1, 0.75])
    mixed = -(0.75 * np.log(0.75) + 0.25 * np.log(0.25))
    assert [row["entropy"] for row in rows] == pytest.approx([0, mixed])
    assert found.languages.to_dict("list") == {
        "category": ["de", "en"],
        "n_prompts": [2, 2],
        "n_tokens": [4, 4],
        "n_units": [2, 0],
    }
    (target,) = found.targets
    assert (target.label, target.category, target.size) == ("de", "de", 2)
    assert target.units.flat().tolist() == [0, 3]
    assert repr(found) == "LanguageNeurons(2 neurons; languages with some: 1 of 2)"
    assert "n_tokens" in found._repr_html_()


def test_a_neuron_that_is_often_active_everywhere_is_specific_to_all_and_comes_last(by_hand):
    found = language_neurons(by_hand, PROMPTS, n_neurons=4, quantile=0.5, **QUIET)
    # Neuron 2 has the entropy 0, but is often active in no language.
    assert found.units["unit"].tolist() == [0, 3, 1, 1]
    assert found.units["category"].tolist() == ["de", "de", "de", "en"]
    assert found.units["entropy"].iloc[-1] == pytest.approx(np.log(2))
    assert [target.label for target in found.targets] == ["de", "en"]


def test_a_language_at_the_threshold_does_not_count_and_a_target_lists_units_in_order():
    active = torch.zeros(9, 3)
    active[1:7, 0] = 1  # on all four German tokens, and on half of the English ones
    active[1:3, 1] = 1  # on half of the German tokens
    active[1:5, 2] = 1  # on the German tokens alone
    model = ByToken({NEURONS: (2 * active - 1).tolist()})
    # Of 0, 0, 0.5, 0.5, 1, 1 two thirds are at most 0.5.
    found = language_neurons(model, PROMPTS, n_neurons=3, quantile=2 / 3, **QUIET)
    assert found.threshold == 0.5
    assert found.units["category"].tolist() == ["de", "de"]
    assert found.units["unit"].tolist() == [2, 0]  # of the lower entropy first
    (target,) = found.targets
    assert target.units.flat().tolist() == [0, 2]


def test_one_prompt_per_language_is_enough(by_hand):
    wanted = language_neurons(by_hand, PROMPTS, n_neurons=4, quantile=0.5, **QUIET)
    whole = pd.DataFrame({"prompt": ["0 1 2 3 4", "0 5 6 7 8"], "category": ["de", "en"]})
    found = language_neurons(by_hand, whole, n_neurons=4, quantile=0.5, **QUIET)
    pd.testing.assert_frame_equal(found.units, wanted.units)


def test_batches_and_padding_change_nothing(by_hand):
    wanted = language_neurons(by_hand, PROMPTS, quantile=0.5, batch_size=1, **QUIET)
    again = language_neurons(by_hand, PROMPTS, quantile=0.5, batch_size=4, **QUIET)
    pd.testing.assert_frame_equal(wanted.units, again.units)


def test_none_is_often_active_if_all_are_always_active():
    model = ByToken({NEURONS: [[1.0, 2.0]] * 9})
    found = language_neurons(model, PROMPTS, **QUIET)
    assert (len(found.units), found.targets, found.threshold) == (0, (), 1.0)
    assert found.units.dtypes.to_dict().keys() == {
        *("category", "layer", "hook_name", "unit", "probability", "entropy")
    }


def test_the_entropy_is_infinite_for_units_that_no_language_activates_often():
    probabilities = np.array([[0.0, 0.2, 0.9], [0.0, 0.2, 0.1]])
    entropies, threshold = lape(probabilities, 0.6)
    assert threshold == 0.2  # the fourth of six
    assert entropies[:2].tolist() == [np.inf, np.inf]
    assert entropies[2] == pytest.approx(-(0.9 * np.log(0.9) + 0.1 * np.log(0.1)))


def test_a_gated_neuron_is_active_where_its_gate_is(prompts):
    model = tiny_model()
    found = language_neurons(model, prompts, n_neurons=36, quantile=0.0, **QUIET)
    assert len(found.units) > 36  # most neurons are active in both
    for row in found.units.iloc[[0, 7, 20]].itertuples():
        active = []
        for prompt in prompts.loc[prompts["category"] == row.category, "prompt"]:
            _, cache = model.run_with_cache(model.to_tokens(prompt))
            gate, other, both = (
                cache[f"blocks.{row.layer}.mlp.{name}"][0, 1:, row.unit]
                for name in ("hook_pre", "hook_pre_linear", "hook_post")
            )
            assert torch.allclose(both, torch.nn.functional.silu(gate) * other, atol=1e-5)
            active += (torch.nn.functional.silu(gate) > 0).tolist()
        assert row.probability == pytest.approx(np.mean(active))


def test_the_targets_go_into_effects_and_the_units_into_descriptions(model, prompts, acts, modules):
    found = language_neurons(model, prompts, n_neurons=6, quantile=0.5, **QUIET)
    effects = tlm.module_effects(
        model, found.targets, prompts, reference=acts, n_controls=2, **QUIET
    )
    assert set(effects["module"]) == {target.label for target in found.targets}
    assert set(effects["category"]) == {"animal", "code"}
    own = effects[effects["own"]]
    assert own["module"].tolist() == own["category"].tolist()
    assert len(tlm.verdicts(effects)) == len(found.targets)
    described = tlm.describe_units(model, found.units, prompts, modules, **QUIET)
    assert described["category"].tolist() == found.units["category"].tolist()


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        ({"category": ["de"] * 4}, {}, "at least two languages; their column 'category' has 1"),
        (None, {}, "at least two languages; their column 'category' has none"),
        ({}, {"quantile": 1.0}, "quantile should be at least 0 and below 1; got 1.0"),
        ({}, {"n_neurons": 0}, "n_neurons"),
        ({"prompt": ["0 1", "0", "0 5", "0 6"]}, {}, "content tokens: ordinary ones after its"),
    ],
)
def test_what_cannot_be_measured_is_refused(change, options, message, by_hand):
    frame = PROMPTS.drop(columns="category") if change is None else PROMPTS.assign(**change)
    with pytest.raises(tlm.ModulesError, match=message):
        language_neurons(by_hand, frame, **options, **QUIET)


def test_gated_neurons_without_their_gates_are_refused():
    model = ByToken({NEURONS: [[1.0]] * 9}, gated=True)
    with pytest.raises(tlm.ModulesError, match=r"read at 'blocks.0.mlp.hook_pre'; 'by token' lack"):
        language_neurons(model, PROMPTS, **QUIET)
