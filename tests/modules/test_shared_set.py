from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

import tl_modules as tlm
from tl_modules.modules.labels import BACKGROUND, check_shared


@pytest.fixture(scope="module")
def aside(acts):
    """The tiny model's modules without three units."""
    shared = acts.units.select(np.array([2, 14, 30]))
    return tlm.discover(acts, 3, shared=shared, progress=False)


def test_the_shared_set_is_a_target_beside_modules(aside, model, prompts):
    options = {"n_controls": 2, "progress": False}
    together = tlm.module_effects(model, [*aside, aside.shared], prompts, **options)
    rows = together[together["module"] == "shared by all"]
    assert rows["category"].tolist() == ["animal", "code"]
    assert (rows["n_units"] == 3).all()
    animals = aside.samples[aside.samples["category"] == "animal"]
    as_module = tlm.Module(7, aside.shared.units, animals, means=aside)
    alone = tlm.module_effects(model, as_module, prompts, **options)
    np.testing.assert_allclose(rows["effect"], alone["effect"])
    with aside.shared.ablated(model):
        changed = model(prompts["prompt"][0], return_type="loss")
    assert changed != model(prompts["prompt"][0], return_type="loss")


def test_coarser_modules_keep_the_shared_set(aside, acts):
    coarser = tlm.hierarchy(aside, acts, n_permutations=1).coarsen(2, acts)
    assert coarser.shared.units.flat().tolist() == [2, 14, 30]


def test_marks_that_do_not_fit_are_refused(aside):
    with pytest.raises(tlm.ModulesError, match="is_shared should be bool"):
        check_shared(aside.is_shared.astype(np.int64), aside.unit_labels)
    with pytest.raises(tlm.ModulesError, match="1 belong to one"):
        replace(aside, is_shared=aside.is_shared | (np.arange(36) == 3))
    assert (aside.unit_labels == BACKGROUND).sum() == 3


def effects_of(flags, **columns):
    rows = [
        {"module": module, "category": category, "effect": 1.0, "shared_by_all": flag}
        for module, flag in flags.items()
        for category in ("animal", "code")
    ]
    return pd.DataFrame(rows).assign(**columns)


def test_modules_that_are_shared_by_all_are_named_so(modules, model, tmp_path):
    named = tlm.with_topics(modules, model, progress=False)
    found = named.with_effects(effects_of({0: False, 1: True}))
    assert [module.title for module in found] == [
        named[0].topic.label,
        "shared by all",
        named[2].topic.label,
    ]
    assert found.describe()["label"][1] == "shared by all"
    assert found["shared by all"].label == found[named[1].topic.label].label == 1
    assert found.to_frame()["shared_by_all"].tolist() == [False, True, False]
    assert "'shared by all'" in repr(found[1])
    assert found[1].topic == named[1].topic
    assert found[1].category == named[1].category
    found.save(tmp_path / "found")
    assert tlm.ModuleSet.load(tmp_path / "found").shared_by_all == (False, True, False)
    # A later table changes the names of the modules that it holds.
    assert found.with_effects(effects_of({1: False, 2: True})).shared_by_all == (False, False, True)


def test_a_table_of_few_controls_or_prompts_takes_no_name_back(modules):
    named = modules.with_effects(effects_of({0: True, 1: True}))
    for few in ({"n_controls": 2, "n": 4}, {"n_controls": 19, "n": 1}):
        quick = effects_of({0: False, 1: False}, **few)
        assert named.with_effects(quick).shared_by_all == (True, True, False)
    enough = effects_of({0: False, 1: True}, n_controls=19, n=4)
    assert named.with_effects(enough).shared_by_all == (False, True, False)


def test_rows_of_the_shared_set_name_no_module(modules):
    beside = effects_of({0: True, "shared by all": True})
    assert modules.with_effects(beside).shared_by_all == (True, False, False)


def test_parts_and_modules_of_another_category_are_no_longer_called_so(modules):
    named = modules.with_effects(effects_of({0: True, 1: True}))
    assert not named[0].core(2, by=named[0].scores).shared_by_all
    assert named.with_categories({1: "other"}).shared_by_all == (True, False, False)


def test_every_run_of_a_table_has_to_say_so(modules):
    flags = [{0: True, 1: True}, {0: True, 1: False}]
    both = pd.concat([effects_of(each, controls=str(at)) for at, each in enumerate(flags)])
    assert modules.with_effects(both).shared_by_all == (True, False, False)
    from_file = both.assign(shared_by_all=both["shared_by_all"].map(str))
    assert modules.with_effects(from_file).shared_by_all == (True, False, False)


def test_a_table_of_an_earlier_version_names_nothing(modules):
    old = effects_of({0: True}).drop(columns="shared_by_all")
    assert modules.with_effects(old).shared_by_all is None
    with pytest.raises(tlm.ModulesError, match="of these 3 modules"):
        modules.with_effects(effects_of({5: True}))
