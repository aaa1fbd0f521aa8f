"""Groups by a model's embedding: planted ones are found, padding and batches do not matter."""

import numpy as np
import pandas as pd
import pytest
import torch

import tl_modules as tlm
from tests.conftest import tiny_model
from tl_modules.models.content_tokens import content_tokens

QUIET = {"progress": False}


@pytest.fixture(scope="module")
def groups(model, prompts):
    return tlm.embedding_annotator(model, prompts, 3, **QUIET)


def test_the_embedding_is_the_middle_layers_mean_over_content(model, prompts, groups):
    text = prompts["prompt"][3]
    tokens = model.to_tokens(text)
    _, cache = model.run_with_cache(tokens)
    stream = cache["blocks.1.hook_resid_post"][0].double()  # three layers
    counted = content_tokens(model, tokens, torch.ones_like(tokens, dtype=torch.bool))[0]
    mean = stream[counted].mean(0).detach().numpy()
    standard = (mean - groups.mean) / groups.scale
    distances = np.sqrt(((standard - groups.centres) ** 2).mean(axis=1))
    row = groups.table.iloc[3]
    assert row["category"] == f"group {distances.argmin()}"
    assert row["distance"] == pytest.approx(distances.min(), rel=1e-4)


def test_groups_are_numbered_by_their_first_prompts_and_repeat(model, prompts, groups):
    firsts = list(dict.fromkeys(groups.table["category"]))
    assert firsts == ["group 0", "group 1", "group 2"]
    again = tlm.embedding_annotator(model, prompts, 3, batch_size=5, **QUIET)
    pd.testing.assert_frame_equal(again.table, groups.table, rtol=1e-4)
    assert "3 groups of 16 prompts" in repr(groups)
    assert "group 2" in groups._repr_html_()


def test_prompts_that_the_model_tells_apart_are_told_apart():
    # Prompts of one word repeated: four words, of which two begin each group's prompts.
    words = {"one": ["cat", "dog"], "other": ["return", "print"]}
    model = tiny_model()
    rows = [
        {"prompt": " ".join([word] * length), "truth": name}
        for name, each in words.items()
        for word in each
        for length in (3, 5, 8, 11)
    ]
    frame = pd.DataFrame(rows)
    found = tlm.embedding_annotator(model, frame, 4, layer=0, **QUIET)
    word_of = frame["prompt"].str.split().str[0]
    assert pd.crosstab(word_of, found.table["category"]).gt(0).sum().eq(1).all()
    # Other prompts of these words go to the same groups, one by one or all at once.
    other = [" ".join([word] * 6) for each in words.values() for word in each]
    expected = [found.table["category"][word_of == text.split()[0]].iloc[0] for text in other]
    assert found.answers(other, **QUIET) == expected
    assert [found(text) for text in other] == expected
    # As an annotator, under names that agree with others'.
    names = dict(zip(found.table["category"], frame["truth"], strict=True))
    named = found.named(names)
    assert set(named.names) == set(words)
    answers = {"groups": named, "a": frame["truth"].tolist(), "b": frame["truth"].tolist()}
    labels = tlm.annotate(frame, answers, progress=False)
    assert labels.table["category"].tolist() == frame["truth"].tolist()
    assert named.table["category"].tolist() == frame["truth"].tolist()


def test_a_prompt_without_content_is_refused(model, prompts, groups):
    message = "should have content tokens: ordinary ones after its first; prompt 1 has none"
    for run in (
        groups.answers,
        lambda texts, **_: tlm.embedding_annotator(model, texts, 2, **QUIET),
    ):
        with pytest.raises(tlm.ModulesError, match=message):
            run([prompts["prompt"][3], "<pad>", prompts["prompt"][4]], **QUIET)


@pytest.mark.parametrize(
    ("n_groups", "options", "message"),
    [
        (1, {}, "n_groups should be at least 2"),
        (9, {}, "at least n_groups=9 prompts that the model embeds differently; there are 8"),
        (2, {"layer": 3}, "layer should be one of the 3 of .*; got 3"),
        (2, {"layer": -1}, "got -1"),
        (2, {"seed": -1}, "seed should lie between"),
        (2, {"batch_size": 0}, "batch_size should be at least 1"),
    ],
)
def test_what_cannot_be_grouped_is_refused(model, prompts, n_groups, options, message):
    texts = prompts["prompt"].tolist()[:8] * 2
    with pytest.raises(tlm.ModulesError, match=message):
        tlm.embedding_annotator(model, texts, n_groups, **options, **QUIET)


def test_names_of_no_group_and_blank_ones_are_refused(groups):
    with pytest.raises(tlm.ModulesError, match="names should be of the groups 'group 0'"):
        groups.named({"group 7": "code"})
    with pytest.raises(tlm.ModulesError, match="Every prompt should have a category"):
        groups.named({"group 1": " "})


def test_activations_that_are_not_finite_are_refused(prompts):
    model = tiny_model()
    with torch.no_grad():
        next(iter(model.parameters()))[:] = float("inf")
    with pytest.raises(tlm.ModulesError, match="should be finite; some are not"):
        tlm.embedding_annotator(model, prompts, 2, **QUIET)
