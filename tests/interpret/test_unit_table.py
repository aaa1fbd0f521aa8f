from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

import tl_modules as tlm
from tests.conftest import tiny_model, unsaid
from tests.interpret.toys import Lensed, lensed_modules
from tests.toy import HOOKS
from tl_modules.interpret.write_vectors import direct_logits

QUIET = {"progress": False}
NAME = "blocks.1.mlp.hook_post"


@pytest.fixture(scope="module")
def described(model, modules, prompts):
    """All units of the tiny model, each with a category."""
    units = modules.units.to_frame()
    units["category"] = np.where(units["unit"] % 2, "animal", "code")
    return tlm.describe_units(model, units, prompts, modules, n_tokens=3, n_contexts=2, **QUIET)


def test_polarity_is_the_sign_that_most_of_the_estimated_effect_comes_from(
    described, model, modules, prompts
):
    estimates = tlm.unit_estimates(model, prompts, modules, **QUIET)
    for category, rows in described.groupby("category"):
        sizes = np.abs([estimates.of(category, "positive"), estimates.of(category, "negative")])[
            :, rows.index
        ]
        clear = np.abs(sizes[0] - sizes[1]) > 1e-3 * sizes.sum(axis=0)
        assert clear.sum() > len(rows) / 2
        expected = np.where(sizes[0] > sizes[1], "positive", "negative")
        assert rows["polarity"][clear].tolist() == expected[clear].tolist()
        shares = sizes.max(axis=0) / sizes.sum(axis=0)
        assert rows["polarity_share"].to_numpy() == pytest.approx(shares, rel=1e-3)
    assert set(described["polarity"]) == {"positive", "negative"}


def test_contexts_are_the_strongest_tokens_of_that_sign_one_of_a_prompt(
    described, model, modules, prompts
):
    for row in (0, 15, 30):
        unit = described.loc[row]
        sign = 1 if unit["polarity"] == "positive" else -1
        best = []
        for prompt in prompts["prompt"]:
            tokens = model.to_tokens(prompt)
            _, cache = model.run_with_cache(tokens)
            values = sign * cache[unit["hook_name"]][0, :, unit["unit"]].detach()
            # BOS and the prompt's first token are special or an attention sink.
            words, values = ["<eos>", *prompt.split()][-len(values) :], values.tolist()
            best.append(max(zip(values[1:], words[1:], strict=True)))
        first, second, *_ = sorted(best, reverse=True)
        marked = [text.split("<<")[1].split(">>")[0] for text in unit["contexts"].split(" / ")]
        assert marked == [first[1], second[1]]
        assert unit["activation"] == pytest.approx(sign * first[0], rel=1e-4)


def test_the_text_around_a_token_is_cut_at_both_sides():
    (row,) = describe_toy("1 1 1 1 1 1 1 1 9 1 1 1 1 1 1 1 1", HOOKS[1], 0).to_dict("records")
    assert row["contexts"] == "…1 1 1 1 1 1 <<9>> 1 1 1 1 1 1…"
    assert row["activation"] == pytest.approx(7 * 0.9)


class Wide(Lensed):
    """The toy with a logit for each of the ten digits."""

    def forward(self, tokens, return_type="logits", attention_mask=None):
        """Tokens above 2 are predicted as token 2 is."""
        logits = super().forward(tokens, return_type, attention_mask)
        return torch.cat([logits, logits[..., 2:].expand(*logits.shape[:2], 7)], dim=-1)


def describe_toy(prompt, hook_name, unit, model=None, **options):
    """One unit of the toy, whose activations at token t are t / 10 or twice or 7 times as much."""
    units = pd.DataFrame({"hook_name": [hook_name], "unit": [unit]})
    modules = replace(lensed_modules(), content_means=lensed_modules().unit_means)
    options = {"n_contexts": 2, "max_tokens": None} | options
    return tlm.describe_units(model or Wide(), units, [prompt], modules, **options, **QUIET)


@pytest.fixture(scope="module")
def writer():
    """A model where neuron 3 of layer 1 writes the unembedding of "bird", and no other one does."""
    model = tiny_model()
    token = model.tokenizer.convert_tokens_to_ids("bird")
    with torch.no_grad():
        towards = model.W_U[:, token] - model.W_U.mean(dim=1)
        rows = model.blocks[1].mlp.W_out
        rows -= torch.outer(rows @ towards, towards) / (towards @ towards)
        rows[3] = 0.01 * towards
    return model


def test_a_neuron_writes_the_opposite_where_its_negative_activations_matter(writer, acts, prompts):
    units = pd.DataFrame({"hook_name": [NAME], "unit": [3]})
    found = {}
    for prompt in prompts["prompt"]:
        table = tlm.describe_units(writer, units, [prompt], acts, n_tokens=1, **QUIET)
        found[table["polarity"][0]] = table.loc[0]
    assert found["positive"]["promoted"] == found["negative"]["suppressed"] == "'bird'"
    assert found["positive"]["activation"] > 0 > found["negative"]["activation"]


def test_only_tokens_that_no_random_direction_reaches_are_listed(writer, acts, prompts):
    units = acts.units.to_frame()
    options = {"n_tokens": 3, "n_contexts": 1}
    described = tlm.describe_units(writer, units, prompts[:4], acts, **options, **QUIET)
    listed = described["promoted"].fillna("") + described["suppressed"].fillna("")
    assert "bird" in listed[15]
    assert (listed == "").any()

    def z(logits, others):
        spread = others.std(axis=0, ddof=1)
        return (logits - others.mean(axis=0)) / (spread + np.median(spread))

    for row in (0, 13, 15, 35):
        unit = described.loc[row]
        vectors = writer.blocks[unit["layer"]].mlp.W_out.detach()
        weights = np.random.default_rng((0, unit["layer"])).standard_normal((20, 12))
        with torch.inference_mode():
            controls = direct_logits(writer, torch.from_numpy(weights).float() @ vectors).numpy()
            own = direct_logits(writer, vectors[[unit["unit"]]])[0].numpy()
        own = z(own if unit["polarity"] == "positive" else -own, controls)
        bar = max(
            np.abs(z(each, np.delete(controls, at, 0))).max() for at, each in enumerate(controls)
        )
        clear = [token for token in np.argsort(-own)[:3] if own[token] > bar]
        words = [repr(writer.tokenizer.decode([token])) for token in clear]
        assert ("" if pd.isna(unit["promoted"]) else unit["promoted"]) == ", ".join(words)


def test_other_columns_and_the_order_of_rows_stay(model, modules, prompts):
    units = modules.units.to_frame().iloc[[30, 2, 17]].assign(score=[3.0, 2.0, 1.0])
    found = tlm.describe_units(model, units, prompts, modules, **QUIET)
    pd.testing.assert_frame_equal(found[units.columns.tolist()], units)


def test_the_batch_size_changes_nothing(described, model, modules, prompts):
    units = described[["layer", "hook_name", "unit", "category"]].iloc[:5]
    options = {"n_tokens": 3, "n_contexts": 2}
    found = tlm.describe_units(model, units, prompts, modules, batch_size=1, **options, **QUIET)
    assert found["contexts"].tolist() == described["contexts"][:5].tolist()
    assert found["activation"].tolist() == pytest.approx(described["activation"][:5], rel=1e-4)


def test_without_categories_all_prompts_tell_the_polarity(described, model, modules, prompts):
    units = modules.units.to_frame().iloc[:6]
    found = tlm.describe_units(model, units, prompts, modules, **QUIET)
    bare = tlm.describe_units(
        model, units.assign(category="poem"), prompts["prompt"], modules, **QUIET
    )
    assert found.equals(bare.drop(columns="category"))
    assert not np.allclose(found["polarity_share"], described["polarity_share"][:6])


def test_a_units_texts_stay_on_one_line_and_obey_no_terminal():
    class Odd(type(Lensed().tokenizer)):
        def decode(self, tokens, skip_special_tokens=False):
            texts = {1: "a\x1b", 3: "\n", 4: " "}
            return "".join(texts.get(token, str(token)) for token in tokens)

    model = Wide()
    model.tokenizer = Odd()
    (row,) = describe_toy("1 1 3 1 1", HOOKS[1], 0, model).to_dict("records")
    assert row["contexts"] == "a\\x1ba\\x1b<<\\n>>a\\x1ba\\x1b"
    (row,) = describe_toy("1 1 4 1", HOOKS[1], 0, model).to_dict("records")
    assert row["contexts"] == "a\\x1ba\\x1b<< >>a\\x1b"


@unsaid
def test_latents_of_saes_have_contexts_and_no_tokens(model, prompts):
    from tests.saes.made import make_saes

    spliced = tlm.with_saes(model, make_saes("random"))
    acts = tlm.collect(spliced, prompts, units="sae", **QUIET)
    units = acts.units.to_frame().iloc[[3, 20]]
    with pytest.warns(UserWarning, match="promoted and suppressed tokens are missing. The write"):
        found = tlm.describe_units(spliced, units, prompts, acts, **QUIET)
    assert found["promoted"].isna().all()
    assert found["suppressed"].isna().all()
    assert found["contexts"].str.contains("<<").all()


def test_attention_heads_are_refused(model, prompts):
    acts = tlm.collect(model, prompts, units="mlp+attn_heads", **QUIET)
    units = acts.units.to_frame()
    with pytest.raises(tlm.ModulesError, match=r"one coordinate each.* attention heads"):
        tlm.describe_units(model, units, prompts, acts, **QUIET)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"unit": [12]}, r"none at 'blocks.1.mlp.hook_post', unit 12. The reference's are"),
        ({"unit": [-1]}, "unit -1"),
        ({"unit": [0.5]}, r"unit 0\.5"),
        ({"hook_name": ["blocks.9.mlp.hook_post"]}, "none at 'blocks.9"),
        ({"promoted": ["a"]}, r"has \['promoted'\]. Drop or rename"),
        ({"category": ["poem"]}, r"there are none of \['poem'\]"),
    ],
)
def test_rows_that_cannot_be_described_are_refused_before_the_model_runs(
    model, acts, prompts, monkeypatch, change, message
):
    monkeypatch.setattr(model, "run_with_hooks", lambda *_, **__: pytest.fail("the model ran"))
    units = pd.DataFrame({"hook_name": [NAME], "unit": [3]}).assign(**change)
    with pytest.raises(tlm.ModulesError, match=message):
        tlm.describe_units(model, units, prompts, acts, **QUIET)
    with pytest.raises(tlm.ModulesError, match=r"1 rows and lacks \['unit'\]"):
        tlm.describe_units(model, units.drop(columns="unit"), prompts, acts, **QUIET)
