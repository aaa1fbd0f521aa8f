import warnings
from dataclasses import replace

import pandas as pd
import pytest

import tl_modules as tlm

QUICK = {"n_controls": 1, "progress": False}


def respelt(prompts, change):
    return prompts.assign(category=prompts["category"].map(change))


@pytest.fixture(scope="module")
def expected(model, modules, prompts):
    return tlm.module_effects(model, modules, prompts, **QUICK)


@pytest.fixture(scope="module")
def untold(model, prompts):
    """Modules of prompts without categories."""
    return tlm.discover(tlm.collect(model, prompts["prompt"].tolist(), progress=False), 2)


def test_space_around_labels_changes_no_number(model, modules, prompts, expected):
    spaced = respelt(prompts, lambda label: f"{label} ")
    with pytest.warns(UserWarning, match="some around 'animal ', 'code '") as said:
        found = tlm.module_effects(model, modules, spaced, **QUICK)
    assert len(said) == 1
    pd.testing.assert_frame_equal(found, expected)


def test_space_around_the_modules_labels_changes_no_number(model, modules, prompts, expected):
    own = replace(modules, samples=respelt(modules.samples, lambda label: f" {label}"))
    with pytest.warns(
        UserWarning, match="some around ' (animal', ' code|code', ' animal)'"
    ) as said:
        found = tlm.module_effects(model, own, prompts, **QUICK)
    assert len(said) == 1
    pd.testing.assert_frame_equal(found, expected)


def test_whole_numbers_beside_a_gap_are_own_categories(model, modules, prompts, expected):
    numbers = {"animal": 0, "code": 1}
    samples = respelt(modules.samples, numbers.get)
    samples["category"] = samples["category"].astype(float)  # as beside a missing value
    found = tlm.module_effects(
        model, replace(modules, samples=samples), respelt(prompts, numbers.get), **QUICK
    )
    assert found["category"].tolist() == [str(numbers[name]) for name in expected["category"]]
    pd.testing.assert_series_equal(found["own"], expected["own"])
    pd.testing.assert_series_equal(found["selectivity"], expected["selectivity"])


def test_capitals_are_named_and_not_merged(model, modules, prompts):
    with pytest.warns(UserWarning, match="No module's own category is among") as said:
        found = tlm.module_effects(model, modules, respelt(prompts, str.title), **QUICK)
    message = str(said[0].message)
    assert "own categories are 'animal', 'code'; the prompts' are 'Animal', 'Code'" in message
    assert "'animal' and 'Animal', 'code' and 'Code'" in message
    assert "modules.with_categories" in message
    assert len(said) == 1
    assert not found["own"].any()
    assert found["selectivity"].isna().all()


def test_some_that_are_missing_are_named(model, modules, prompts):
    one = respelt(prompts, {"animal": "animal", "code": "Code"}.get)
    with pytest.warns(UserWarning, match=r"\d \('code'\).*'code' and 'Code'") as said:
        found = tlm.module_effects(model, modules, one, **QUICK)
    assert len(said) == 1
    own = {module.label for module in modules if module.category == "animal"}
    assert set(found.loc[found["own"], "module"]) == own
    assert found["selectivity"].notna().sum() == 2 * len(own)


def test_a_column_of_another_name_is_named(model, modules, prompts):
    odd = prompts.rename(columns={"category": "Category"})
    with pytest.warns(UserWarning, match="prompts have none. Rename 'Category' to 'category'"):
        tlm.module_effects(model, modules, odd, **QUICK)


def test_modules_without_categories_say_so(model, untold, prompts):
    with pytest.warns(UserWarning, match="modules have no own category.*'animal', 'code'"):
        tlm.module_effects(model, untold, prompts, **QUICK)
    named = untold.with_categories({0: "animal", 1: "code"})
    found = tlm.module_effects(model, named, prompts, **QUICK)
    assert found["own"].tolist() == [True, False, False, True]
    assert found["selectivity"].notna().all()


def test_nothing_is_said_where_neither_side_has_categories(model, untold, prompts):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = tlm.module_effects(model, untold, prompts["prompt"].tolist()[:4], **QUICK)
    assert found["category"].tolist() == ["all", "all"]


def test_a_tie_is_said_and_can_be_decided(model, modules, prompts):
    samples = pd.DataFrame({"category": ["code", "animal"] * 3, "score": 1.0})
    tied = replace(modules[0], samples=samples)
    with pytest.warns(UserWarning, match=r"0 \('animal', 'code': 'animal' is taken\)") as said:
        found = tlm.module_effects(model, tied, prompts, **QUICK)
    assert len(said) == 1
    assert "modules.with_categories({0: 'code'})" in str(said[0].message)
    assert found.loc[found["own"], "category"].tolist() == ["animal"]
    decided = tlm.module_effects(model, tied.with_category("code"), prompts, **QUICK)
    assert decided.loc[decided["own"], "category"].tolist() == ["code"]
    # Of two categories, the selectivity for one is minus that for the other.
    assert decided["selectivity"][0] == pytest.approx(-found["selectivity"][0])


def test_other_targets_categories_are_compared_as_text(model, modules, prompts):
    reference = tlm.collect_reference(model, prompts, units="mlp+attn_heads", progress=False)
    parts = tlm.specialised_parts(
        model, prompts, reference, kinds={"neuron": 3}, metric="loss", progress=False
    )
    spaced = [replace(part, category=f" {part.category}") for part in parts]
    found = tlm.module_effects(model, spaced, prompts, **QUICK)
    assert found["own"].tolist() == [True, False, False, True]


def test_shared_units_and_parts_read_labels_alike(model, prompts, acts):
    spaced = respelt(prompts, lambda label: f"{label} ")
    with pytest.warns(UserWarning, match="Space around categories") as said:
        found = tlm.shared_units(model, spaced, acts, n_units=2, progress=False)
    assert len(said) == 1
    expected = tlm.shared_units(model, prompts, acts, n_units=2, progress=False)
    pd.testing.assert_frame_equal(found.table, expected.table)
    reference = tlm.collect_reference(model, prompts, units="mlp+attn_heads", progress=False)
    odd = prompts.rename(columns={"category": "Label"})
    with pytest.raises(tlm.ModulesError, match="Rename 'Label' to 'category'"):
        tlm.specialised_parts(model, odd, reference, metric="loss", progress=False)


def test_a_concept_reads_labels_alike(model, modules, prompts):
    fit, spaced = prompts, respelt(prompts, lambda label: f"{label} ")
    options = {"n_controls": 1, "progress": False}
    with pytest.warns(UserWarning, match="Space around categories") as said:
        found = tlm.concept_effects(model, modules[0], "code", fit, spaced, **options)
    assert len(said) == 1
    expected = tlm.concept_effects(model, modules[0], "code", fit, fit, **options)
    pd.testing.assert_frame_equal(found, expected)
    with pytest.raises(tlm.ModulesError, match=r"are 'animal', 'code'.*'Code' and 'code'"):
        tlm.concept_effects(model, modules[0], "Code", fit, fit, **options)


def test_without_controls_only_slips_of_spelling_are_said(model, modules, prompts):
    options = {"n_controls": 0, "progress": False}
    other = respelt(prompts, {"animal": "x", "code": "y"}.get)
    assert tlm.module_effects(model, modules, other, **options)["selectivity"].isna().all()
    with pytest.warns(UserWarning, match="'animal' and 'Animal'"):
        tlm.module_effects(model, modules, respelt(prompts, str.title), **options)
