"""Patching from corrupted prompts in the tables of effects, against doing it by hand."""

import numpy as np
import pandas as pd
import pytest
import torch

import tl_modules as tlm

QUIET = {"progress": False}


@pytest.fixture(scope="module")
def pairs(model):
    rows = [
        ("animal", "the cat sat on the", "the dog ran over a", "mat"),
        ("animal", "one bird flew over", "two cat ran under", "house"),
        ("animal", "the dog ran", "the cat sat", "under"),
        ("code", "print ( red ) or", "return ( blue ) and", "if"),
        ("code", "if big is small", "or red is green", "else"),
    ]
    return pd.DataFrame(rows, columns=["category", "prompt", "corrupted", "answer"]).assign(
        separator=" "
    )


@pytest.fixture(scope="module")
def parts(model, pairs, prompts):
    reference = tlm.collect_reference(model, prompts, units="mlp+attn_heads", **QUIET)
    kinds = {"layer": 1, "head": 2}
    return tlm.specialised_parts(model, pairs, reference, kinds=kinds, **QUIET)


def surprise(model, row, hooks=()):
    tokens = model.to_tokens(f"{row['prompt']} {row['answer']}")
    with torch.inference_mode():
        logits = model.run_with_hooks(tokens, fwd_hooks=list(hooks))
    return -logits[0, -2].double().log_softmax(-1)[tokens[0, -1]].item()


def by_hand(model, pairs, units):
    from tl_modules.interventions.hooks import unit_hooks

    rises = []
    for _, row in pairs.iterrows():
        corrupted = model.to_tokens(f"{row['corrupted']} {row['answer']}")
        cache = model.run_with_cache(corrupted)[1]
        hooks = unit_hooks(units, "patch", source=cache)
        rises.append(surprise(model, row, hooks) - surprise(model, row))
    return np.array(rises)


def test_modules_and_parts_are_patched_from_the_corrupted_run(model, pairs, modules, parts):
    options = {"metric": "answer_logprob", "method": "patch", "n_controls": 2, **QUIET}
    table = tlm.module_effects(model, [*modules, *parts], pairs, batch_size=3, **options)
    for target in (*modules, *parts):
        rises = by_hand(model, pairs, target.units)
        assert np.abs(rises).max() > 1e-3
        for category, group in pairs.groupby("category"):
            row = table[(table["module"] == target.label) & (table["category"] == category)]
            assert row["effect"].item() == pytest.approx(rises[group.index].mean(), abs=1e-4)
            assert np.isfinite(row["control_mean"].item())


def test_the_loss_can_be_measured_too_and_sufficiency(model, pairs, modules):
    options = {"method": "patch", "n_controls": 1, **QUIET}
    table = tlm.module_effects(model, modules[0], pairs, **options)
    assert table["effect"].abs().max() > 1e-3
    rest = tlm.module_effects(model, modules[0], pairs, keep_only=True, **options)
    assert not np.allclose(table["effect"], rest["effect"])


def test_a_corrupted_prompt_that_is_the_prompt_changes_nothing(model, pairs, modules):
    same = pairs.assign(corrupted=pairs["prompt"])
    table = tlm.module_effects(model, modules, same, method="patch", n_controls=1, **QUIET)
    np.testing.assert_allclose(table["effect"], 0, atol=1e-5)


def test_without_corrupted_prompts_of_as_many_tokens_it_is_refused(model, pairs, modules):
    options = {"method": "patch", **QUIET}
    with pytest.raises(tlm.ModulesError, match="needs a column 'corrupted'"):
        tlm.module_effects(model, modules, pairs.drop(columns="corrupted"), **options)
    longer = pairs.assign(corrupted=pairs["corrupted"] + " red")
    with pytest.raises(tlm.ModulesError, match="those of prompt 0 have 7 and 6"):
        tlm.module_effects(model, modules, longer, **options)


def test_each_prompt_gets_another_of_its_category_and_length(model):
    frame = pd.DataFrame(
        {
            "prompt": ["the cat", "a dog", "two bird", "the cat sat", "red is", "blue is"],
            "category": ["animal"] * 4 + ["code"] * 2,
            "answer": ["sat", "ran", "ran", "on", "big", "big"],
        }
    )
    found = tlm.with_corrupted(model, frame)
    # "the cat sat" is alone with its length; the two of code have one answer.
    assert found["prompt"].tolist() == ["the cat", "a dog", "two bird"]
    assert found["corrupted"].tolist()[1:] == ["the cat", "the cat"]
    assert found["corrupted"][0] in {"a dog", "two bird"}
    assert "corrupted" not in frame
    with pytest.raises(tlm.ModulesError, match="none have"):
        tlm.with_corrupted(model, frame.iloc[3:])


def test_prompts_are_paired_exactly_as_given(model):
    frame = pd.DataFrame({"prompt": ["the cat sat ", "a dog ran"], "category": "animal"})
    paired = tlm.with_corrupted(model, frame)
    assert paired["prompt"].tolist() == ["the cat sat ", "a dog ran"]
    assert paired["corrupted"].tolist() == ["a dog ran", "the cat sat "]


@pytest.mark.parametrize("metric", ["loss", "answer_logprob"])
def test_every_text_is_tokenised_once(model, modules, pairs, metric, monkeypatch):
    read, to_tokens = [], model.to_tokens

    def watched(text, *args, **options):
        read.append(text)
        return to_tokens(text, *args, **options)

    monkeypatch.setattr(model, "to_tokens", watched)
    options = {"method": "patch", "metric": metric, "n_controls": 1, "controls": "attribution"}
    if metric != "loss":
        options["controls"] = "layer"
    tlm.module_effects(model, modules, pairs, **options, **QUIET)
    texts = [text for text in read if text in set(pairs["prompt"]) | set(pairs["corrupted"])]
    assert len(texts) == len(set(texts)) == 10
