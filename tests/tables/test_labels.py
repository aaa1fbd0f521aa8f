import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

import tl_modules as tlm
from tl_modules.data import read_prompts
from tl_modules.tables.labels import (
    checked_labels,
    column_hint,
    label_text,
    near_misses,
    warn_spelling,
)
from tl_modules.tables.prompt_frames import categories_of, labelled


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1, "1"),
        (1.0, "1"),
        (np.float32(-2.0), "-2"),
        (np.int64(3), "3"),
        (1.5, "1.5"),
        (True, "True"),
        (np.bool_(False), "False"),
        ("007", "007"),
        (" math\u00a0\t", "math"),
        ("two words", "two words"),
        (1e20, "100000000000000000000"),
        (float("inf"), "inf"),
    ],
)
def test_a_category_is_its_text_without_space_around_it(value, text):
    assert label_text(value) == text


@pytest.mark.parametrize("value", [None, float("nan"), np.nan, pd.NA, pd.NaT, "", "  "])
def test_missing_and_blank_categories_are_none(value):
    assert label_text(value) is None
    with pytest.raises(tlm.ModulesError, match="prompt 1 has none"):
        checked_labels(["a", value])


def test_whole_numbers_beside_a_gap_are_the_same_labels_as_without(planted, tmp_path):
    rows = [{"prompt": f"p{row}", "category": row % 2} for row in range(59)]
    path = tmp_path / "gap.jsonl"
    path.write_text("\n".join(map(json.dumps, [*rows, {"prompt": "p", "category": None}])))
    read = read_prompts(path)
    assert read["category"].tolist()[:2] == [0, 1]
    assert str(read["category"].iloc[0]) == "0"
    of_pandas = pd.DataFrame([*rows, {"prompt": "p", "category": None}])
    assert str(of_pandas["category"].iloc[0]) == "0.0"  # what pandas makes of it
    for frame in (read, of_pandas):
        acts = tlm.ActivationMatrix.from_arrays(planted[0], samples=frame)
        acts.save(tmp_path / "acts.safetensors")
        modules = tlm.discover(tlm.ActivationMatrix.load(tmp_path / "acts.safetensors"), 2)
        modules.save(tmp_path / "modules.safetensors")
        for found in (modules, tlm.ModuleSet.load(tmp_path / "modules.safetensors")):
            assert {module.category for module in found} <= {"0", "1"}
            assert set(found.to_frame()["category"]) <= {"0", "1", "0 / 1"}
    assert categories_of(of_pandas[:2]).tolist() == ["0", "1"]


def test_space_around_labels_is_trimmed_and_said_once():
    frame = pd.DataFrame({"prompt": ["a", "b", "c"], "category": ["math ", "names", "math"]})
    with pytest.warns(UserWarning, match="ignored; there is some around 'math '") as said:
        found = labelled(frame, [" names"])
    assert len(said) == 1
    assert "' names'" in str(said[0].message)
    assert found["category"].tolist() == ["math", "names", "math"]
    assert frame["category"].tolist() == ["math ", "names", "math"]
    labelled(found)  # nothing is said twice


def test_labels_spelt_alike_are_named_and_not_merged():
    apart = ["math", "two words", "caf\u00e9", "1", "7", "c", "x\u200by"]
    others = ["MATH", "two_words", "cafe\u0301", "1.0", "7", "c++", "xy"]
    expected = [
        ("math", "MATH"),
        ("two words", "two_words"),
        ("caf\u00e9", "cafe\u0301"),
        ("1", "1.0"),
        ("x\u200by", "xy"),
    ]
    assert near_misses(apart, others) == expected
    assert near_misses(["-1", "1", "a", "b"], ["-1", "1", "a", "b"]) == []
    with pytest.warns(UserWarning, match="count as different ones: 'Math' and 'math'"):
        warn_spelling(["Math", "math"])
    frame = pd.DataFrame({"category": ["Math", "math"]})
    assert categories_of(frame).tolist() == ["Math", "math"]


def test_a_column_of_nearly_the_right_name_is_named():
    for name in ("Category", "categories", " category", "CATEGORY", "label", "Class"):
        assert f"Rename {name!r} to 'category'" in column_hint(["prompt", name])
    assert column_hint(["prompt", "source"]) == "Add a column 'category'"


def probed(acts, test):
    modules = tlm.discover(acts, 2)
    return tlm.probe_accuracy(modules, acts, test)


@pytest.fixture
def labelled_acts(planted):
    category = ["a" if label % 2 else "b" for label in planted[1]]
    return tlm.ActivationMatrix.from_arrays(
        planted[0], samples=pd.DataFrame({"category": category})
    )


def test_a_probe_names_test_labels_that_train_spells_otherwise(labelled_acts):
    right = probed(labelled_acts, labelled_acts)
    spaced = replace(labelled_acts, samples=labelled_acts.samples + " ")
    with pytest.warns(UserWarning, match="Space around categories is ignored") as said:
        assert probed(labelled_acts, spaced) == right
    assert len(said) == 1
    capitals = replace(labelled_acts, samples=labelled_acts.samples.map(str.upper))
    with pytest.warns(UserWarning, match=r"train lacks.*'[AB]', '[AB]' \(60 of 60 prompts\)") as it:
        assert probed(labelled_acts, capitals) == 0
    assert len(it) == 1
    assert "and 'a'" in str(it[0].message)


def test_comparing_methods_says_it_once(labelled_acts):
    capitals = replace(labelled_acts, samples=labelled_acts.samples.map(str.upper))
    with pytest.warns(UserWarning, match="test has categories that train lacks") as said:
        tlm.compare_methods(
            labelled_acts, capitals, [2], methods=["iterd", "kmeans"], n_seeds=2, progress=False
        )
    assert len(said) == 1


def test_activations_without_categories_name_the_column_that_may_be_meant(labelled_acts):
    odd = replace(
        labelled_acts, samples=labelled_acts.samples.rename(columns={"category": "Label"})
    )
    with pytest.raises(tlm.ModulesError, match="Rename 'Label' to 'category'"):
        probed(odd, odd)


def test_a_concept_that_is_spelt_otherwise_is_named(labelled_acts):
    with pytest.raises(tlm.ModulesError, match=r"categories are '[ab]', '[ab]'.*'A' and 'a'"):
        tlm.compare_detectors(labelled_acts, "A", n_resamples=2, progress=False)
