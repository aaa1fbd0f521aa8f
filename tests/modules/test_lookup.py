"""A module by its number, its label, or a unit that belongs to it."""

import math
from dataclasses import replace

import numpy as np
import pytest

import tl_modules as tlm
from tl_modules.modules.labels import BACKGROUND


def test_numbers_count_from_the_end_too_and_a_slice_is_a_list(modules):
    assert modules[-1].label == modules[np.int64(2)].label == 2
    assert [module.label for module in modules[1:]] == [1, 2]
    assert [module.label for module in modules[::-1]] == [2, 1, 0]
    assert modules[5:] == []


def test_a_unit_is_found_in_the_module_whose_units_hold_it(modules):
    for layer, unit in ((0, 0), (1, 7), (2, 11)):
        place = modules.find(layer=layer, unit=unit)
        frame = place.module.units.to_frame()
        row = frame.index[(frame["layer"] == layer) & (frame["unit"] == unit)]
        assert len(row) == 1
        assert place.score == place.module.scores[row[0]]
        assert [len(module.units) for module in modules if module.label == place.module.label]


def test_the_runner_up_is_the_other_module_on_whose_samples_the_unit_is_most_active(modules, acts):
    zscores = acts.zscore().values
    for unit in range(12):
        place = modules.find(layer=1, unit=unit)
        column = zscores[:, 12 + unit]
        means = [column[modules.sample_labels == k].mean() for k in range(3)]
        own = place.module.label
        others = [k for k in range(3) if k != own]
        assert place.runner_up.label == max(others, key=lambda k: means[k])
        assert place.score == pytest.approx(means[own] - means[place.runner_up.label], abs=1e-5)


def test_runners_up_are_saved_and_a_file_without_them_still_loads(modules, tmp_path):
    modules.save(tmp_path / "new.safetensors")
    loaded = tlm.ModuleSet.load(tmp_path / "new.safetensors")
    np.testing.assert_array_equal(loaded.unit_runners_up, modules.unit_runners_up)
    replace(modules, unit_runners_up=None).save(tmp_path / "old.safetensors")
    place = tlm.ModuleSet.load(tmp_path / "old.safetensors").find(layer=0, unit=3)
    assert place.runner_up is None
    assert place.module.label == modules.find(layer=0, unit=3).module.label


def test_a_unit_that_was_set_aside_has_no_module(modules):
    labels = np.where(np.arange(36) == 5, BACKGROUND, modules.unit_labels)
    aside = replace(modules, unit_labels=labels, unit_scores=None)
    module, score, runner_up = aside.find(layer=0, unit=5)
    assert module is None
    assert math.isnan(score)
    assert runner_up.label == modules.unit_runners_up[5]


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"layer": 3, "unit": 0}, "no units of layer 3. Their layers go from 0 to 2"),
        ({"layer": 0, "unit": 12}, "unit should be below 12, .*; got 12"),
        ({"layer": 0, "unit": -1}, "unit should be at least 0; got -1"),
        ({"layer": True, "unit": 1}, "layer should be a whole number; got True"),
        ({"layer": 0, "unit": 1, "hook_name": "x"}, "no units of 'x' in layer 0"),
    ],
)
def test_a_unit_that_is_not_there_is_refused(modules, asked, message):
    with pytest.raises(tlm.ModulesError, match=message):
        modules.find(**asked)


def test_where_a_layer_has_several_hook_points_one_is_named(model, prompts):
    acts = tlm.collect(model, prompts, units="mlp+attn_heads", progress=False)
    both = tlm.discover(acts, 2, progress=False)
    with pytest.raises(tlm.ModulesError, match=r"Layer 1 has 2 hook points: .*hook_name="):
        both.find(layer=1, unit=1)
    place = both.find(layer=1, unit=1, hook_name="blocks.1.attn.hook_z")
    at = both.units.to_frame().query("layer == 1 and unit == 1 and hook_name.str.contains('attn')")
    assert place.module.label == both.unit_labels[at.index[0]]


@pytest.fixture
def named(modules):
    """The modules with own categories that tell them apart, but for the last two."""
    return modules.with_categories({0: "french", 1: "code", 2: "code"})


def test_a_module_is_found_by_its_category_and_by_its_topics_label(named):
    assert named["french"].label == 0
    told = tlm.with_topics(named)
    for number, topic in enumerate(told.topics):
        assert told[topic.label].label == number


def test_a_label_of_no_module_or_of_several_is_refused(named, modules):
    with pytest.raises(tlm.ModulesError, match="2 modules have the label 'code': 1, 2"):
        named["code"]
    with pytest.raises(tlm.ModulesError, match=r"No module has the label 'frensh'. .*'french'"):
        named["frensh"]
    bare = replace(modules, samples=modules.samples.drop(columns="category"))
    with pytest.raises(tlm.ModulesError, match="neither topics nor categories"):
        bare["french"]
