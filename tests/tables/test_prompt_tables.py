"""What collect and the causal tests take as prompts, and what they refuse."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import tl_modules as tlm
from tl_modules.tables.prompt_frames import prompt_frame

ROWS = {"prompt": ["the cat", "a dog sat", "one plus"], "category": ["animal", "animal", "code"]}


def given_as():
    """The same prompts as people keep them, by name."""
    import datasets
    import pyarrow

    dataset = datasets.Dataset.from_dict(ROWS)
    return {
        "frame": pd.DataFrame(ROWS),
        "columns": ROWS,
        "arrays": {name: np.array(values) for name, values in ROWS.items()},
        "split": dataset,
        "slice": dataset[:3],
        "arrow": pyarrow.table(ROWS),
    }


@pytest.mark.parametrize("kind", ["frame", "columns", "arrays", "split", "slice", "arrow"])
def test_tables_of_any_kind_are_the_same_prompts(kind, model):
    acts = tlm.collect(model, given_as()[kind], progress=False)
    assert acts.samples[["prompt", "category"]].to_dict("list") == ROWS
    assert acts.samples["n_tokens"].tolist() == [3, 4, 3]  # with BOS


def test_effects_of_a_slice_are_those_of_the_frame(model, modules):
    given = given_as()
    found = [
        tlm.module_effects(model, modules, given[kind], n_controls=2, progress=False)
        for kind in ("frame", "slice", "split")
    ]
    for other in found[1:]:
        pd.testing.assert_frame_equal(found[0], other)


@pytest.mark.parametrize("kind", [list, tuple, np.array, pd.Series, dict.fromkeys])
def test_lists_of_any_kind_are_read_and_a_mapping_without_prompts_refused(kind, model):
    texts = ROWS["prompt"]
    if kind == dict.fromkeys:
        with pytest.raises(tlm.ModulesError, match="'the cat' is None"):
            prompt_frame(kind(texts))
    else:
        assert tlm.collect(model, kind(texts), progress=False).samples["prompt"].tolist() == texts


@pytest.mark.parametrize(
    ("prompts", "message"),
    [
        (None, "should be a list of strings, .*; got None"),
        (7, "should be a list of strings, .*; got 7"),
        ("the cat", r"got one string, 'the cat'\. Put one prompt in a list; read a file with"),
        (Path("a.csv"), r"got PosixPath\. .* read a file with tl_modules\.data\.read_prompts"),
        (b"the cat", r"got bytes\. Pass the prompts' texts in a list"),
        ({"the cat"}, r"got set\. A set has no order: pass sorted\(prompts\)"),
        ((text for text in "ab"), r"got a generator, .* only once\. .* list\(prompts\)"),
        (iter(["a"]), r"only once\. .* list\(prompts\)"),
        (np.array("the cat"), "got ndarray"),
        (np.array([["the cat"]]), "prompt 0 is ndarray"),
        (pd.DataFrame, "got the type DataFrame"),
        ([], "at least one prompt; got none"),
        (["a", None], "prompt 1 is None"),
        ([{"prompt": "a"}], r"prompt 0 is dict\. .* pd\.DataFrame\(rows\)"),
        ({"prompt": "a", "n": 1}, "Each column of prompts should be a list, .* 'prompt' is 'a'"),
        ({"prompt": ["a"], "n": [1, 2]}, r"of one length; got {'prompt': 1, 'n': 2}"),
        ({"text": ["a"]}, r"a column 'prompt'; got \['text'\]"),
        (pd.DataFrame([["a", "b"]], columns=["prompt"] * 2), "columns of different names"),
        (
            {"train": pd.DataFrame(ROWS), "test": pd.DataFrame(ROWS)},
            r"one split of a dataset; got a mapping of \['train', 'test'\]\. .* prompts\['train'\]",
        ),
    ],
)
def test_what_is_no_prompts_is_refused_with_a_remedy(prompts, message):
    with pytest.raises(tlm.ModulesError, match=message):
        prompt_frame(prompts)


def test_splits_rows_and_streams_of_a_dataset_are_refused():
    import datasets

    dataset = datasets.Dataset.from_dict(ROWS)
    for given, message in (
        (datasets.DatasetDict({"train": dataset}), r"mapping of \['train'\]"),
        (dataset[0], "'prompt' is 'the cat'"),
        (dataset.to_iterable_dataset(), r"pd\.DataFrame\(list\(dataset\.take\(1000\)\)\)"),
    ):
        with pytest.raises(tlm.ModulesError, match=message):
            prompt_frame(given)
