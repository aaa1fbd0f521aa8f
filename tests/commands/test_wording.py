"""Refusals in the words of the command line."""

import warnings
from dataclasses import replace

import pandas as pd
import pytest

import tl_modules as tlm
from tl_modules import cli
from tl_modules.commands import collect
from tl_modules.commands.options import prompts_named
from tl_modules.commands.wording import in_options, warnings_in_options
from tl_modules.runtime.call_warnings import warn_user

HELP = "--batch-size N --max-tokens N --tokens T --dtype D --chat --prompt-column C --store"


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("tokens should be one of 'all'.", "--tokens should be one of 'all'."),
        ("Its tokens should be whole.", "Its tokens should be whole."),  # a plain word
        ("Pass dtype='bfloat16'.", "Pass --dtype bfloat16."),
        ("Pass store=..., a folder.", "Pass --store, a folder."),
        ("Pass the names as prompt=....", "Pass the names as --prompt-column."),
        ("Lower batch_size or max_tokens.", "Lower --batch-size or --max-tokens."),
        ("'max_tokens.csv' is no CSV.", "'max_tokens.csv' is no CSV."),  # a user's file
        ("The model's max_tokens and the prompt's.", "The model's --max-tokens and the prompt's."),
        ("Call batch_size().", "Call batch_size()."),
        ("Pass n_seeds=3 or chat=True.", "Pass n_seeds=3 or --chat."),  # not of this command
    ],
)
def test_arguments_become_options(said, expected):
    assert in_options(said, HELP) == expected


@pytest.mark.parametrize("command", ["collect", "evaluate", "test"])
def test_a_column_of_another_name_is_advised_as_an_option(command, tmp_path, capsys, modules):
    path = tmp_path / "quiz.csv"
    pd.DataFrame({"question": ["the cat"], "topic": ["x"]}).to_csv(path, index=False)
    modules.save(tmp_path / "m.safetensors")
    words = [command, *([str(tmp_path / "m.safetensors")] if command == "test" else [])]
    assert cli.main([*words, "--prompts", str(path), "--out", str(tmp_path / "out")]) == 1
    said = capsys.readouterr().err
    assert "--prompt-column and --category-column" in said
    assert "prompt=" not in said


def test_columns_are_read_under_their_names(tmp_path, model, monkeypatch):
    path = tmp_path / "quiz.csv"
    frame = pd.DataFrame({"question": ["the cat", "a dog"], "topic": ["x", "y"]})
    frame.to_csv(path, index=False)
    read = prompts_named(str(path), "question", "topic")
    assert read.to_dict("list") == {"prompt": ["the cat", "a dog"], "category": ["x", "y"]}
    monkeypatch.setattr(collect, "load_model", lambda name, **_placed: model)
    words = ["collect", "--prompts", str(path), "--prompt-column", "question", "--no-progress"]
    out = tmp_path / "acts.safetensors"
    assert cli.main([*words, "--category-column", "topic", "--out", str(out)]) == 0
    assert collect.ActivationMatrix.load(out).samples["category"].tolist() == ["x", "y"]


def test_a_column_that_a_corpus_lacks_is_refused():
    with pytest.raises(tlm.ModulesError, match="should have a column 'question'"):
        prompts_named("recall", "question")
    with pytest.raises(tlm.ModulesError, match=r"^--prompts recall .* Name one with --category-"):
        prompts_named("recall", category_column="topic")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--tokens", "answer"], "--tokens answer needs prompts with an 'answer'; 'q.csv' has no"),
        (["--separator", " "], "--separator should be left out where no answer is read; got ' '"),
        (
            ["--units", "attn_heads", "--aggregate", "fraction_active"],
            "Pass another --aggregate, or --units attn_z.",
        ),
    ],
)
def test_refusals_of_collect_name_options(tmp_path, monkeypatch, capsys, words, said):
    monkeypatch.chdir(tmp_path)
    pd.DataFrame({"prompt": ["the cat"], "category": ["x"]}).to_csv("q.csv", index=False)
    assert cli.main(["collect", "--prompts", "q.csv", "--out", "acts.safetensors", *words]) == 1
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("categories", "said"),
    [
        (None, "a category for every sample. Add a column 'category', and collect again."),
        (["x", None, "y", None], "for every sample; 2 of 4 have none, the first in row 1. Fill in"),
    ],
)
def test_samples_without_a_category_are_named(tmp_path, capsys, acts, categories, said):
    found = acts.select(range(4))
    samples = found.samples[["prompt"]]
    if categories is not None:
        samples = samples.assign(category=categories)
    path = tmp_path / "acts.safetensors"
    replace(found, samples=samples).save(path)
    words = ["discover", str(path), "--held-out", "0.5", "--out", str(tmp_path / "m.safetensors")]
    assert cli.main(words) == 1
    refused = capsys.readouterr().err
    assert said in refused
    assert refused.count("Add a column") == (categories is None)


def test_own_warnings_are_shown_once_in_options(capsys):
    with warnings.catch_warnings(record=True) as others:
        warnings.simplefilter("always")
        with warnings_in_options(HELP):
            for _ in range(2):
                warn_user("Prompts were cut.\nRaise max_tokens.")
            warnings.warn("Another library's max_tokens.", UserWarning, stacklevel=1)
    expected = "tl-modules: warning: Prompts were cut. Raise --max-tokens.\n"
    assert capsys.readouterr().err == expected
    assert [str(each.message) for each in others] == ["Another library's max_tokens."]
