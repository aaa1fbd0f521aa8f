"""Heads, MLP layers and the residual stream beside modules, against TransformerLens and by hand."""

import numpy as np
import pandas as pd
import pytest
import torch
from transformer_lens import patching

import tl_modules as tlm
from tests.causal.test_effects import loss_by_hand
from tests.conftest import unsaid
from tests.related.test_refusals import untyped
from tl_modules.tables.p_values import benjamini_hochberg, holm

QUIET = {"progress": False}
SAME = ["category", "own", "effect", "ci_low", "ci_high", "control_mean", "control_std", "p_value"]


@pytest.fixture(scope="module")
def table(model, modules, prompts):
    return tlm.with_components(model, modules, prompts, n_controls=3, **QUIET)


@pytest.fixture(scope="module")
def pairs():
    """Prompts that differ from their corrupted ones in the last token alone."""
    rows = [
        ("animal", "the cat sat on the", "the cat sat on a", "mat"),
        ("animal", "one bird flew over", "one bird flew under", "house"),
        ("code", "print ( red ) or", "print ( red ) and", "if"),
        ("code", "if big is small", "if big is green", "else"),
    ]
    columns = ["category", "prompt", "corrupted", "answer"]
    return pd.DataFrame(rows, columns=columns).assign(separator=" ")


def theirs(model, pairs, get_act_patch, position=None):
    """The mean rise of minus the answer's log-probability in TransformerLens' own patching."""
    rises = []
    for row in pairs.itertuples():
        clean, corrupted = (
            model.to_tokens(f"{text} {row.answer}") for text in (row.prompt, row.corrupted)
        )

        def surprise(logits, answer=clean[0, -1]):
            return -logits[0, -2].log_softmax(-1)[answer]

        with torch.inference_mode():
            cache = model.run_with_cache(corrupted)[1]
            found = get_act_patch(model, clean, cache, surprise) - surprise(model(clean))
        rises.append(found if position is None else found[:, position])
    return torch.stack(rises).mean(0).double().cpu().numpy()


def test_patching_gives_the_numbers_of_transformer_lens(model, modules, pairs):
    options = {"metric": "answer_logprob", "method": "patch", "n_controls": 2, **QUIET}
    table = tlm.with_components(model, modules, pairs.assign(category="all"), **options)
    effect = table.set_index("label")["effect"]
    heads = theirs(model, pairs, patching.get_act_patch_attn_head_out_all_pos)
    assert heads.shape == (3, 2)
    assert np.abs(heads).max() > 1e-3
    for (layer, head), expected in np.ndenumerate(heads):
        assert effect[f"L{layer}H{head}"] == pytest.approx(expected, abs=1e-4)
    # The answer is predicted at the one position before it where the two runs differ.
    layers = theirs(model, pairs, patching.get_act_patch_mlp_out, position=-2)
    for layer, expected in enumerate(layers):
        assert effect[f"L{layer} mlp"] == pytest.approx(expected, abs=1e-4)
    before = theirs(model, pairs, patching.get_act_patch_resid_pre, position=-2)
    for layer, expected in enumerate(before[1:]):  # before a layer is after the one below it
        assert effect[f"L{layer} resid"] == pytest.approx(expected, abs=1e-4)
    every = table[table["kind"] == "resid"]["effect"]
    np.testing.assert_allclose(every, every.iloc[0], atol=1e-4)  # the corrupted run, at any layer


def test_ablation_puts_the_same_prompts_means_in_every_row(model, modules, prompts, table):
    reference = tlm.collect_reference(model, prompts, units="attn_heads", **QUIET)
    head = tlm.interventions.UnitTarget()
    head.units = reference.units.select(np.array([3]))  # L1H1
    hooks = head.fwd_hooks("mean", reference, positions="content")
    for category, group in prompts.groupby("category"):
        rises = [
            loss_by_hand(model, text, hooks) - loss_by_hand(model, text) for text in group["prompt"]
        ]
        row = table[(table["label"] == "L1H1") & (table["category"] == category)].iloc[0]
        assert row["effect"] == pytest.approx(np.mean(rises), abs=1e-5)
        assert (row["hook_name"], row["layer"], row["head"]) == ("blocks.1.attn.hook_z", 1, 1)


def test_modules_and_cores_have_the_rows_of_module_effects(model, modules, prompts):
    options = {"n_controls": 3, "method": "resample", **QUIET}
    cores = tlm.ModuleSet(
        **{
            **{name: getattr(modules, name) for name in modules.__dataclass_fields__},
            "unit_labels": np.where(np.arange(36) % 2, modules.unit_labels, -1),
        }
    )
    table = tlm.with_components(model, modules, prompts, cores=cores, components=["mlp"], **options)
    reference = tlm.collect_reference(model, prompts, **QUIET)
    for kind, given in (("module", modules), ("core", cores)):
        expected = tlm.module_effects(model, given, prompts, reference=reference, **options)
        found = table[table["kind"] == kind].reset_index(drop=True)
        assert found["label"].tolist() == [f"{kind} {label}" for label in expected["module"]]
        assert found["n_units"].tolist() == expected["n_units"].tolist()
        same = SAME if kind == "module" else SAME[:5]  # a core has controls of its own
        pd.testing.assert_frame_equal(found[same], expected[same])
        own = expected["own"].to_numpy()
        columns = [name for name in expected if name.startswith("selectivity")]
        # The table is corrected over all its rows, and holds no single controls.
        columns = [name for name in columns if not name.endswith(("holm", "bh", "_controls"))]
        if kind == "module":
            pd.testing.assert_frame_equal(found.loc[own, columns], expected.loc[own, columns])
        assert found[columns[0]][own].tolist() == pytest.approx(
            expected[columns[0]][own].tolist(), abs=1e-12
        )


def test_a_component_is_held_against_all_others_of_its_kind(table):
    for kind, n, said in (("head", 6, "all other heads"), ("mlp", 3, "all other MLP layers")):
        rows = table[(table["kind"] == kind) & (table["category"] == "code")]
        effects = rows["effect"].to_numpy()
        assert len(effects) == n
        assert (rows["controls"] == said).all()
        assert (rows["n_controls"] == n - 1).all()
        for place, (_, row) in enumerate(rows.iterrows()):
            others = np.delete(effects, place)
            assert row["control_mean"] == pytest.approx(others.mean())
            assert row["control_std"] == pytest.approx(others.std(ddof=1))


def test_p_values_are_those_of_modules_and_cores_alone(table):
    ours = table["kind"] == "module"
    for name in ("p", "selectivity_p"):
        columns = [f"{name}_value", f"{name}_holm", f"{name}_bh"]
        assert table.loc[~ours, columns].isna().all(axis=None)
        assert table.loc[ours, columns].notna().all(axis=None)
        p_values = table.loc[ours, columns[0]].to_numpy()
        # No row without a p-value counts among the tests.
        np.testing.assert_allclose(table.loc[ours, columns[1]], holm(p_values))
        np.testing.assert_allclose(table.loc[ours, columns[2]], benjamini_hochberg(p_values))


def test_a_rank_is_the_place_by_effect_among_a_kind_within_a_category(table):
    ranked = table[table["kind"] != "resid"]
    for (kind, _), rows in ranked.groupby(["kind", "category"]):
        assert rows["rank"].min() == 1, kind
        for row in rows.itertuples():
            assert row.rank == 1 + (rows["effect"] > row.effect).sum()
    assert table.loc[table["kind"] == "resid", "rank"].isna().all()


def test_equal_effects_share_a_rank(model, modules, prompts):
    nothing = modules[0].units.every()
    table = tlm.with_components(
        model, modules, prompts, components=["mlp"], exclude=nothing, n_controls=0, **QUIET
    )
    ours = table[table["kind"] == "module"]
    assert (ours["effect"] == 0).all()
    assert (ours["rank"] == 1).all()
    assert table.loc[table["kind"] == "mlp", "effect"].abs().min() > 0  # excluded of modules alone


@pytest.mark.parametrize(("method", "n_runs"), [("zero", 1), ("mean", 2)])
def test_the_unchanged_model_runs_once_and_once_for_means(model, modules, method, n_runs):
    texts = ["the cat sat on", "a dog ran over", "print ( red )", "if big is small"]
    frame = pd.DataFrame({"prompt": texts, "category": ["animal"] * 2 + ["code"] * 2})
    last, n_clean = "blocks.2.hook_resid_post", np.zeros(4, dtype=int)
    with torch.inference_mode():
        _, cache = model.run_with_cache(model.to_tokens(texts))
    expected = cache[last]

    def counted(activation, hook):
        same = (activation[:, None] - expected).abs().amax((2, 3)) < 1e-5
        n_clean[:] += same.sum(0).numpy()

    with model.hooks(fwd_hooks=[(last, counted)]):
        tlm.with_components(model, modules, frame, method=method, n_controls=1, **QUIET)
    # The row of the last stream counts too: it is changed after it was read here.
    assert n_clean.tolist() == [n_runs + 1] * 4


def test_the_residual_stream_has_no_control(table):
    rows = table[table["kind"] == "resid"]
    assert len(rows) == 6
    missing = ["control_mean", "control_std", "p_value", "p_bh", "selectivity_p_value"]
    assert rows[missing].isna().all(axis=None)
    assert (rows["controls"] == "nothing").all()
    assert rows[["effect", "ci_low", "ci_high", "selectivity"]].notna().all(axis=None)


def test_selectivity_is_for_the_rows_own_category(table):
    by_category = table.pivot(index="label", columns="category", values="effect")
    for row in table.itertuples():
        (other,) = set(by_category.columns) - {row.category}
        effects = by_category.loc[row.label]
        assert row.selectivity == pytest.approx(effects[row.category] - effects[other])


def test_a_row_counts_the_numbers_that_it_changes(table):
    widths = table.groupby("kind")["n_units"].agg(["min", "max"])
    assert widths.loc["head"].tolist() == [8, 8]
    assert widths.loc["mlp"].tolist() == [12, 12]
    assert widths.loc["resid"].tolist() == [16, 16]
    assert table.drop_duplicates("label").groupby("kind")["n_units"].sum()["module"] == 36


def test_other_prompts_may_give_the_means(model, modules, prompts, table):
    given = {"components": ["resid"], "n_controls": 0, **QUIET}
    other = tlm.with_components(
        model, modules, prompts, reference_prompts=prompts.iloc[:2], **given
    )
    same = tlm.with_components(model, modules, prompts, reference_prompts=prompts, **given)
    kinds = table["kind"].isin(["module", "resid"])
    expected = table.loc[kinds, "effect"].to_numpy()
    np.testing.assert_allclose(same["effect"], expected, atol=1e-6)
    for kind in ("module", "resid"):
        of_kind = (same["kind"] == kind).to_numpy()
        assert np.abs(other["effect"] - same["effect"])[of_kind].max() > 1e-3


@unsaid
def test_heads_may_be_modules_too(model, prompts):
    acts = tlm.collect(model, prompts, units="attn_heads", **QUIET)
    found = tlm.discover(acts, 2, **QUIET)
    table = tlm.with_components(
        model,
        found,
        prompts,
        method="scale",
        factor=0.0,
        components=["head"],
        n_controls=1,
        **QUIET,
    )
    assert table.drop_duplicates("label").groupby("kind")["n_units"].sum().to_dict() == {
        "module": 48,
        "head": 48,
    }


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"components": ["heads"]}, "components should be one of 'head', 'mlp', 'resid'"),
        ({"components": []}, "components should hold one or more of"),
        ({"n_controls": -1}, "n_controls should be at least 0"),
        ({"cores": "core"}, "cores should be a module set.*Pass causal_cores"),
        ({"method": "scale"}, "needs a finite factor"),
        ({"method": "patch"}, "needs a column 'corrupted'"),
    ],
)
def test_what_cannot_be_is_refused(model, modules, prompts, change, said):
    with untyped(), pytest.raises(tlm.ModulesError, match=said):
        tlm.with_components(model, **({"modules": modules, "prompts": prompts} | QUIET | change))


def test_another_model_is_refused(other_model, modules, prompts):
    with pytest.raises(tlm.ModulesError, match="Use the model that"):
        tlm.with_components(other_model, modules, prompts, **QUIET)
