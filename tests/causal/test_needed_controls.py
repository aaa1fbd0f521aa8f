"""How many controls each test runs where none were asked for by number."""

import numpy as np
import pytest

import tl_modules as tlm
from benchmarks.calibration.planted import PlantedModel
from tl_modules.tables.sequential import StoppingRule

QUIET = {"progress": False}
ZERO = {"method": "zero", "batch_size": 400, **QUIET}


@pytest.fixture(scope="module")
def planted_model():
    return PlantedModel()


@pytest.fixture(scope="module")
def planted_acts(planted_model):
    return tlm.collect(planted_model, planted_model.prompts(6), **QUIET)


@pytest.fixture(scope="module")
def held_out(planted_model):
    return planted_model.prompts(3, seed=1)


def module_of(acts, label, is_member, category="task0"):
    samples = acts.samples[acts.samples["category"] == category]
    return tlm.Module(label, acts.units.select(is_member), samples, means=acts)


@pytest.fixture(scope="module")
def true_modules(planted_model, planted_acts):
    return [
        module_of(planted_acts, number, planted_model.owner == number, f"task{number}")
        for number in range(3)
    ]


@pytest.fixture(scope="module")
def random_module(planted_model, planted_acts):
    drawn = np.random.default_rng(5).random(len(planted_model.owner)) < 1 / 3
    return module_of(planted_acts, 3, drawn)


@pytest.fixture(scope="module")
def effects(planted_model, true_modules, random_module, held_out):
    return tlm.module_effects(planted_model, [*true_modules, random_module], held_out, **ZERO)


def test_true_modules_pass_holms_correction(effects):
    tested = effects.drop_duplicates("module").set_index("module")
    assert (tested.loc[:2, "selectivity_p_holm"] <= 0.05).all()
    assert tested.loc[3, "selectivity_p_holm"] > 0.05


def test_the_table_says_how_many_controls_each_module_used(effects):
    tested = effects.drop_duplicates("module").set_index("module")
    rule = StoppingRule.for_tests(4)
    assert tested["n_controls"].tolist()[:3] == [rule.early] * 3
    assert 19 <= tested.loc[3, "n_controls"] < rule.early
    assert (effects.groupby("module")["n_controls"].nunique() == 1).all()


def test_the_controls_are_the_first_of_a_fixed_number(
    planted_model, random_module, true_modules, held_out, effects
):
    targets = [*true_modules, random_module]
    n_used = int(effects.loc[effects["module"] == 3, "n_controls"].iloc[0])
    fixed = tlm.module_effects(planted_model, targets, held_out, n_controls=n_used, **ZERO)
    assert (fixed["n_controls"] == n_used).all()
    for name in ("effect", "control_mean", "selectivity_control_max"):
        one, other = (table.loc[table["module"] == 3, name] for table in (effects, fixed))
        np.testing.assert_allclose(one, other, atol=1e-6)


def test_cells_are_tested_with_the_controls_that_run_in_any_case(
    planted_model, random_module, true_modules, held_out, effects
):
    targets = [*true_modules, random_module]
    fixed = tlm.module_effects(planted_model, targets, held_out, n_controls=19, **ZERO)
    np.testing.assert_array_equal(effects["p_value"], fixed["p_value"])
    assert set(effects["n_cell_controls"]) == {19}
    assert effects["n_controls"].max() > 19
    few = tlm.module_effects(planted_model, random_module, held_out, n_controls=3, **ZERO)
    assert set(few["n_cell_controls"]) == {3}


def test_without_selectivity_every_category_is_a_test(planted_model, random_module, held_out):
    # No own category among the prompts': each effect needs as many controls as it takes.
    tested = held_out.assign(category="everything")
    with pytest.warns(UserWarning, match="own categories"):
        table = tlm.module_effects(planted_model, random_module, tested, **ZERO)
    assert table["selectivity_p_value"].isna().all()
    assert 19 <= table["n_controls"].iloc[0] <= 999
    assert table["n_cell_controls"].tolist() == table["n_controls"].tolist()


def test_fewer_prompts_run_than_with_a_fixed_number(
    planted_model, random_module, held_out, monkeypatch
):
    n_rows = []
    forward = PlantedModel.forward

    def counted(self, tokens, *words, **options):
        n_rows.append(len(tokens))
        return forward(self, tokens, *words, **options)

    monkeypatch.setattr(PlantedModel, "forward", counted)
    table = tlm.module_effects(planted_model, random_module, held_out, **ZERO)
    runs = sum(n_rows) / len(held_out)
    # The clean run, the module's, and at most one step of controls more than the test used.
    assert table["n_controls"].iloc[0] + 2 <= runs <= table["n_controls"].iloc[0] + 2 + 20


def test_a_target_with_few_controls_uses_all(model, prompts):
    reference = tlm.collect_reference(model, prompts, units="mlp+attn_heads", **QUIET)
    parts = tlm.specialised_parts(
        model, prompts, reference, kinds={"layer": 1}, metric="loss", **QUIET
    )
    table = tlm.module_effects(model, parts, prompts, **QUIET)
    assert (table["n_controls"] == model.cfg.n_layers - 1).all()
    assert (table["selectivity_p_value"] >= 1 / model.cfg.n_layers).all()


def test_the_first_controls_are_the_same_however_many_are_asked_for(model, modules, prompts):
    reference = tlm.collect_reference(model, prompts, units="mlp+attn_heads", **QUIET)
    kinds = {"layer": 1, "head": 2, "neuron": 5}
    parts = tlm.specialised_parts(model, prompts, reference, kinds=kinds, metric="loss", **QUIET)
    for target in (modules[0], *parts):
        few, more = (target.controls(n, np.random.default_rng(4)) for n in (2, 30))
        assert len(more) >= len(few)
        for one, other in zip(few, more, strict=False):
            np.testing.assert_array_equal(one.units.flat(), other.units.flat())
