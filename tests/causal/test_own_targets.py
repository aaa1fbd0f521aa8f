"""Targets that a user writes, in every causal test, against modules of the same units."""

import numpy as np
import pandas as pd
import pytest

import tl_modules as tlm
from tl_modules.interventions import UnitTarget
from tl_modules.interventions.hooks import unit_hooks

QUIET = {"progress": False}


class EverySecond(tlm.Target):
    """Every second unit of a matrix set to 0, with the odd half of them as its control."""

    label, category = "every second", "animal"

    def __init__(self, units, start=0):
        self.units = units.select(np.arange(start, len(units), 4))
        self._all = units

    @property
    def size(self):
        return len(self.units)

    def check_model(self, model):
        self.units.check_model(model)

    def fwd_hooks(self, *, positions=None, attention_mask=None, rows=None):
        where = {"positions": positions, "attention_mask": attention_mask, "rows": rows}
        return unit_hooks(self.units, "zero", **where)

    def controls(self, n_controls, generator):
        return [EverySecond(self._all, start=2) for _ in range(n_controls)]


class Chosen(UnitTarget):
    """Some units: the experiment says what becomes of them."""

    category = "animal"

    def __init__(self, label, units, reference):
        self.label, self.units, self.reference = label, units, reference


class WithoutUnits(EverySecond):
    """The same intervention, by a target that does not say which units it changes."""

    label = "opaque"

    def __init__(self, units):
        super().__init__(units)
        self._units, self.units = self.units, None

    @property
    def size(self):
        return len(self._units)

    def check_model(self, model):
        self._units.check_model(model)

    def fwd_hooks(self, **where):
        return unit_hooks(self._units, "zero", **where)


@pytest.fixture(scope="module")
def target(acts):
    return EverySecond(acts.units)


@pytest.fixture(scope="module")
def by_hand(acts, target):
    """A module of the target's units."""
    return tlm.Module(7, target.units, acts.samples.head(3), means=acts)


@pytest.fixture(scope="module")
def chosen(acts, target):
    """The target's units as a ``UnitTarget`` with the module's number."""
    return Chosen(7, target.units, acts)


@pytest.fixture(scope="module")
def runs(model):
    clean = model.to_tokens(["the cat sat on the", "one two three four five"])
    corrupted = model.to_tokens(["a dog ran on the", "six red blue four tree"])
    return clean, corrupted, model.run_with_cache(clean)[1]


def metric(logits):
    return logits[:, -1, 5] - logits[:, -1, 6]


def mean_metric(logits):
    return metric(logits).mean()


def test_its_effects_are_those_of_a_module_of_its_units(model, prompts, target, by_hand, modules):
    options = {"method": "zero", **QUIET}
    table = tlm.module_effects(model, [*modules, target], prompts, n_controls=2, **options)
    expected = tlm.module_effects(model, by_hand, prompts, n_controls=0, **options)
    own = table[table["module"] == "every second"].reset_index(drop=True)
    for column in ("effect", "ci_low", "ci_high", "n_units", "loss"):
        np.testing.assert_allclose(own[column], expected[column], atol=1e-6)
    assert own["own"].tolist() == [True, False]
    control = EverySecond(target._all, start=2)
    other = tlm.module_effects(model, control, prompts, n_controls=0, **QUIET)
    np.testing.assert_allclose(own["control_mean"], other["effect"], atol=1e-6)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"method": "zero", "keep_only": True},
        {"method": "scale", "factor": 0.5, "controls": "attribution"},
    ],
)
def test_a_unit_target_follows_the_options_as_a_module_does(
    model, prompts, chosen, by_hand, acts, options
):
    exclude = acts.units.select(np.arange(0, 12))
    options = {"n_controls": 3, "exclude": exclude, **options, **QUIET}
    found = tlm.module_effects(model, chosen, prompts, **options)
    as_module = by_hand.with_category("animal")
    pd.testing.assert_frame_equal(found, tlm.module_effects(model, as_module, prompts, **options))


def test_it_is_patched_as_a_module_of_its_units(model, prompts, target, by_hand, runs):
    _, corrupted, cache = runs
    for patch in (
        tlm.get_act_patch_module,
        tlm.get_act_patch_module_by_pos,
        tlm.get_act_patch_module_by_layer,
    ):
        given = (model, corrupted, cache, mean_metric)
        values, index = patch(*given, [target], return_index_df=True, **QUIET)
        assert set(index["module"]) == {"every second"}
        assert (values == patch(*given, by_hand, **QUIET)).all()
    paired = tlm.with_corrupted(model, prompts)
    options = {"method": "patch", "n_controls": 1, **QUIET}
    own = tlm.module_effects(model, target, paired, **options)
    expected = tlm.module_effects(model, by_hand.with_category("animal"), paired, **options)
    np.testing.assert_allclose(own["effect"], expected["effect"], atol=1e-6)
    zeroed = tlm.module_effects(model, target, paired, n_controls=1, **QUIET)
    assert not np.allclose(own["effect"], zeroed["effect"], atol=1e-4)


def test_it_is_dissociated_from_a_module(model, prompts, target, by_hand, modules):
    sets = [prompts[prompts["category"] == name] for name in ("animal", "code")]
    options = {"n_controls": 19, "method": "zero", **QUIET}
    found = tlm.dissociation(model, target, modules[1], *sets, **options)
    expected = tlm.dissociation(model, by_hand, modules[1], *sets, **options)
    columns = ["effect", "ci_low", "ci_high"]
    np.testing.assert_allclose(found.effects[columns], expected.effects[columns], atol=1e-6)
    for pair in ((target, by_hand), (WithoutUnits(target._all),) * 2):
        with pytest.raises(tlm.ModulesError, match="should be two modules"):
            tlm.dissociation(model, *pair, *sets, **options)


def test_a_unit_target_has_a_modules_controls_in_a_dissociation(
    model, prompts, chosen, by_hand, modules
):
    sets = [prompts[prompts["category"] == name] for name in ("animal", "code")]
    options = {"n_controls": 19, **QUIET}
    one, other = (
        tlm.dissociation(model, first, modules[0], *sets, **options) for first in (chosen, by_hand)
    )
    pd.testing.assert_frame_equal(one.effects, other.effects)
    pd.testing.assert_frame_equal(one.contrasts, other.contrasts)


def test_it_is_attributed_to_as_a_module_of_its_units(model, target, by_hand, runs):
    clean, corrupted, _ = runs
    found, expected = (
        tlm.attribute_modules(model, clean, corrupted, metric, each, exact=True, **QUIET)
        for each in (target, [by_hand])
    )
    numbers = ["n_units", "score", "exact"]
    pd.testing.assert_frame_equal(found.modules[numbers], expected.modules[numbers])
    assert found.modules["module"].tolist() == ["every second"]


def test_a_target_without_units_has_effects_and_is_refused_where_units_are_needed(
    model, prompts, target, runs
):
    opaque = WithoutUnits(target._all)
    options = {"n_controls": 1, **QUIET}
    found = tlm.module_effects(model, opaque, prompts, **options)
    expected = tlm.module_effects(model, target, prompts, **options)
    np.testing.assert_array_equal(found["effect"], expected["effect"])
    clean, corrupted, cache = runs
    for run in (
        lambda: tlm.get_act_patch_module(model, corrupted, cache, mean_metric, opaque, **QUIET),
        lambda: tlm.attribute_modules(model, clean, corrupted, metric, [opaque], **QUIET),
    ):
        with pytest.raises(tlm.ModulesError, match="should consist of units here; 'opaque' is a"):
            run()


def test_a_unit_targets_own_controls_are_of_its_layers_and_methods(model, chosen):
    drawn = chosen.controls(3, np.random.default_rng(0))
    assert len(drawn) == 3
    for control in drawn:
        assert control.units.counts().tolist() == chosen.units.counts().tolist()
        hooks = Chosen("same units", control.units, chosen.reference).fwd_hooks("mean")
        tokens = model.to_tokens("the cat sat on the mat")
        expected = model.run_with_hooks(tokens, fwd_hooks=hooks)
        assert (model.run_with_hooks(tokens, fwd_hooks=control.fwd_hooks()) == expected).all()


def test_unit_targets_of_two_sites_have_no_common_controls(model, prompts, chosen):
    heads = tlm.collect(model, prompts, units="attn_heads", **QUIET)
    both = [chosen, Chosen("heads", heads.units, heads)]
    with pytest.raises(tlm.ModulesError, match="should belong to one model and site"):
        tlm.module_effects(model, both, prompts, n_controls=1, **QUIET)


def test_it_is_attached_and_ablated(model, target):
    tokens = model.to_tokens("the cat sat on the mat")
    before = model(tokens)
    with target.ablated(model):
        ablated = model(tokens)
    with target.attach(model) as handle:
        assert tlm.attached(model)[0].target is target
        np.testing.assert_array_equal(model(tokens).detach(), ablated.detach())
    handle.remove()
    assert (model(tokens) == before).all()
    assert not (ablated == before).all()
