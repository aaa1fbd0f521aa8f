from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

import tl_modules as tlm
from tests.conftest import unequal


def test_modules_partition_the_units_and_the_samples(modules, acts):
    assert len(modules) == 3
    every = np.concatenate([module.units.flat() for module in modules])
    assert sorted(every.tolist()) == list(range(len(acts.units)))
    assert sum(len(module.samples) for module in modules) == len(acts.samples)


def test_a_module_is_its_units_and_its_samples_strongest_first(modules):
    module = modules[1]
    assert module.n_units == (modules.unit_labels == 1).sum() == len(module.units)
    assert module.layers == sorted(set(module.units.to_frame()["layer"]))
    assert module.samples["score"].is_monotonic_decreasing
    assert set(module.samples.index) == set(np.flatnonzero(modules.sample_labels == 1))


@unequal
def test_the_category_is_the_most_frequent_one_of_its_samples(planted):
    samples = pd.DataFrame({"category": ["b"] * 3 + ["a"] * 3 + ["c"] * 54})
    acts = tlm.ActivationMatrix.from_arrays(planted[0], samples=samples)
    found = tlm.discover(acts, 4)
    for module in found:
        counts = module.samples["category"].value_counts()
        assert counts[module.category] == counts.max()
    assert tlm.discover(tlm.ActivationMatrix.from_arrays(planted[0]), 4)[0].category is None


def test_the_frame_has_one_row_a_module(modules):
    frame = modules.to_frame()
    assert frame["module"].tolist() == [0, 1, 2]
    assert frame["n_units"].sum() == 36
    assert frame["category_share"].between(0.5, 1).all()
    scores = [module.samples["score"].mean() for module in modules]
    assert frame["mean_activation"].tolist() == pytest.approx(scores)


@pytest.mark.parametrize("k", [-4, 3])
def test_a_module_that_is_not_there_is_refused(modules, k):
    with pytest.raises(tlm.ModulesError, match=rf"numbered 0..2, or -1..-3 from the end; got {k}"):
        modules[k]


def test_nothing_in_a_set_can_be_changed(modules):
    with pytest.raises(AttributeError):
        modules.n_modules = 4
    with pytest.raises(ValueError, match="read-only"):
        modules.unit_labels[0] = 1
    with pytest.raises(ValueError, match="read-only"):
        modules.units.index[0] = 1


def test_saving_and_loading_keeps_everything(modules, tmp_path):
    path = tmp_path / "modules.safetensors"
    modules.save(path)
    found = tlm.ModuleSet.load(path)
    for name in ("unit_labels", "sample_labels", "sample_scores", "unit_means"):
        np.testing.assert_array_equal(getattr(found, name), getattr(modules, name))
    for name in ("mean", "std"):
        np.testing.assert_array_equal(
            getattr(found.normaliser, name), getattr(modules.normaliser, name)
        )
    for name in ("n_modules", "objective", "seed", "history", "converged", "model_name"):
        assert getattr(found, name) == getattr(modules, name)
    assert found.versions["torch"] == modules.versions["torch"] != "not installed"
    assert found.units.hook_names == modules.units.hook_names
    pd.testing.assert_frame_equal(found.samples, modules.samples)
    pd.testing.assert_frame_equal(found.to_frame(), modules.to_frame())


def test_a_file_is_safetensors_with_a_json_header(modules, tmp_path):
    import json

    from safetensors import safe_open

    path = tmp_path / "modules.safetensors"
    modules.save(path)
    with safe_open(path, framework="numpy") as file:
        header = json.loads(file.metadata()["tl_modules"])["header"]
    assert header["model_name"] == "tiny"
    assert header["units"]["names"][0] == "blocks.0.mlp.hook_post"
    assert header["n_modules"] == 3
    assert header["objective"]["L"] == modules.objective.L
    assert {"seed", "versions"} <= set(header)


def test_samples_that_json_cannot_hold_are_refused_and_nothing_is_written(planted, tmp_path):
    from dataclasses import replace

    samples = pd.DataFrame({"thing": [object()] * 60})
    with pytest.raises(tlm.ModulesError, match="column 'thing' should hold values"):
        tlm.ActivationMatrix.from_arrays(planted[0], samples=samples)
    found = tlm.discover(tlm.ActivationMatrix.from_arrays(planted[0]), 4)
    with pytest.raises(tlm.ModulesError, match="column 'thing' should hold values"):
        replace(found, samples=samples).save(tmp_path / "modules.safetensors")
    assert list(tmp_path.iterdir()) == []


def test_labels_that_do_not_fit_are_refused(modules):
    from dataclasses import replace

    with pytest.raises(tlm.ModulesError, match="unit_labels should have 36 entries"):
        replace(modules, unit_labels=modules.unit_labels[:-1])
    with pytest.raises(tlm.ModulesError, match=r"sample_labels should lie in 0\.\.2"):
        replace(modules, sample_labels=modules.sample_labels + 1)


def test_the_notebook_tables_show_text_not_markup(modules):
    assert "3 modules of tiny" in modules._repr_html_()
    assert "Module(0: " in modules[0]._repr_html_()
    assert max(len(repr(thing)) for thing in (modules, modules[0], modules.units)) < 200
    samples = pd.DataFrame({"prompt": ["<img src=x onerror=alert(1)>"] * 4})
    acts = tlm.ActivationMatrix.from_arrays(np.random.default_rng(0).normal(size=(4, 6)))
    found = tlm.discover(tlm.ActivationMatrix.from_arrays(acts.values, samples=samples), 2)
    assert "<img" not in found[0]._repr_html_()


def test_samples_without_any_category_have_none(planted):
    samples = pd.DataFrame({"category": [None] * 60})
    found = tlm.discover(tlm.ActivationMatrix.from_arrays(planted[0], samples=samples), 4)
    assert found[0].category is None
    assert "category None" in repr(found[0])


def test_a_set_does_not_change_with_the_activations_it_came_from(planted):
    acts = tlm.ActivationMatrix.from_arrays(planted[0], unit_means=np.zeros(160))
    found = tlm.discover(acts, 4)
    acts.unit_means[0] = 99
    acts.samples["sample"] = -1
    assert found.unit_means[0] == 0
    assert found.samples["sample"].tolist() == list(range(60))


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_a_seed_that_not_every_generator_takes_is_refused(planted, seed):
    acts = tlm.ActivationMatrix.from_arrays(planted[0])
    with pytest.raises(tlm.ModulesError, match=rf"between 0 and 2\*\*32 - 1; got {seed}"):
        tlm.discover(acts, 4, seed=seed)


@pytest.mark.parametrize("number", [3, -4, True, None, 1.0])
def test_what_numbers_no_module_is_refused(modules, number):
    get = getattr(type(modules).__getitem__, "__wrapped__", type(modules).__getitem__)
    with pytest.raises(tlm.ModulesError, match=r"Modules are numbered 0\.\.2, or .*; got"):
        get(modules, number)


def test_samples_with_two_columns_of_one_name_are_refused(modules, tmp_path):
    twice = modules.samples.assign(extra=1).rename(columns={"extra": "prompt"})
    with pytest.raises(tlm.ModulesError, match="columns should have different names"):
        replace(modules, samples=twice).save(tmp_path / "modules.safetensors")


@pytest.fixture
def tied(planted):
    """Four modules; the first has as many samples of one category as of another."""
    acts = tlm.ActivationMatrix.from_arrays(planted[0])
    found = tlm.discover(acts, 4)
    category = np.array(["other"] * 60, dtype=object)
    own = np.flatnonzero(found.sample_labels == 0)
    half = (len(own) - 1) // 2
    category[own[:half]], category[own[half : 2 * half]] = "math", "coding"
    texts = [("red", "green", "blue", "pink")[label] for label in found.sample_labels]
    return replace(found, samples=pd.DataFrame({"category": category, "prompt": texts}))


def test_a_tie_of_categories_is_shown(tied):
    module = tied[0]
    n_samples = int((tied.sample_labels == 0).sum())
    share = ((n_samples - 1) // 2) / n_samples
    assert module.tied_categories == ("coding", "math")
    assert module.category == "coding"  # the first by name
    assert module.category_share == pytest.approx(share)
    assert "category coding / math" in repr(module)
    frame = tied.to_frame()
    assert frame["category"].tolist() == ["coding / math", "other", "other", "other"]
    assert frame["category_share"].tolist() == pytest.approx([share, 1, 1, 1])
    assert tied[1].tied_categories == ()
    assert tlm.with_topics(tied)[0].topic.label.startswith("coding / math: red")


def test_a_module_takes_the_category_that_it_is_given(tied, tmp_path):
    given = tied.with_categories({0: "math", 2: " new "})
    assert [module.category for module in given] == ["math", "other", "new", "other"]
    assert given[0].tied_categories == ()
    assert given[2].category_share == 0
    assert given.to_frame()["category"].tolist() == ["math", "other", "new", "other"]
    path = tmp_path / "modules.safetensors"
    given.save(path)
    found = tlm.ModuleSet.load(path)
    assert found.own_categories == ("math", None, "new", None)
    assert tlm.with_topics(found)[0].topic.label.startswith("math: ")
    given.save_pretrained(tmp_path / "shared")
    assert tlm.ModuleSet.from_pretrained(tmp_path / "shared")[0].category == "math"
    assert "coding / math" not in (tmp_path / "shared" / "README.md").read_text()
    again = given.with_categories({0: None})
    assert again[0].category_title == "coding / math"
    assert again[2].category == "new"
    assert tied.own_categories is None


def test_a_category_that_is_given_renames_the_topic(tied):
    told = tlm.with_topics(tied)
    found = told.with_categories({0: "math"})
    assert found[0].topic.label == "math: red"
    assert [topic.label for topic in found.topics[1:]] == [topic.label for topic in told.topics[1:]]
    assert found[0].topic.words == told[0].topic.words


def test_categories_that_cannot_be_given_are_refused(tied):
    with pytest.raises(tlm.ModulesError, match=r"numbered 0\.\.3, or .*; got 4"):
        tied.with_categories({4: "math"})
    with pytest.raises(tlm.ModulesError, match="own category should be a text; got ' '"):
        tied.with_categories({0: " "})
    with pytest.raises(
        tlm.ModulesError, match="own_categories should have one entry per module, 4"
    ):
        replace(tied, own_categories=("math",))
