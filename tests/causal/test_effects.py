from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import false_discovery_control

import tl_modules as tlm
from tests.causal.alike import check_alike
from tl_modules.causal import prompt_runs
from tl_modules.models.losses import next_token_losses


def loss_by_hand(model, prompt, hooks=()):
    """One prompt at a time, no padding, log-probabilities summed by hand."""
    tokens = model.to_tokens(prompt)
    with torch.inference_mode():
        logits = model.run_with_hooks(tokens, fwd_hooks=list(hooks))[0]
    logprobs = torch.log_softmax(logits[:-1].double(), dim=-1)
    return -logprobs[torch.arange(len(logprobs)), tokens[0, 1:]].mean().item()


def two_modules(acts, unit_labels):
    """A set with these unit labels."""
    return tlm.ModuleSet(
        units=acts.units,
        samples=acts.samples,
        unit_labels=unit_labels,
        sample_labels=np.arange(len(acts.samples)) % 2,
        n_modules=2,
        objective=tlm.modules.Objective(0.0, 0.0, 0.0),
        sample_scores=np.zeros(len(acts.samples)),
        unit_means=acts.unit_means,
        content_means=acts.content_means,
    )


@pytest.fixture(scope="module")
def effects(model, modules, prompts):
    return tlm.module_effects(model, modules, prompts, n_controls=4, progress=False)


def test_an_effect_is_the_rise_of_the_categorys_mean_loss(model, modules, prompts, effects):
    for module in modules:
        for category, group in prompts.groupby("category"):  # noqa: B007 - in the query
            rises = [
                loss_by_hand(model, prompt, module.fwd_hooks(positions="content"))
                - loss_by_hand(model, prompt)
                for prompt in group["prompt"]
            ]
            row = effects.query("module == @module.label and category == @category").iloc[0]
            assert row["effect"] == pytest.approx(np.mean(rises), abs=1e-5)
            assert row["n"] == len(group)
            assert row["ci_low"] <= row["effect"] <= row["ci_high"]


def test_the_table_has_the_promised_columns_and_rows(effects, modules):
    promised = [
        "module",
        "category",
        "effect",
        "control_mean",
        "control_std",
        "p_value",
        "ci_low",
        "ci_high",
        "n",
    ]
    assert set(promised) <= set(effects.columns)
    assert len(effects) == len(modules) * 2
    assert effects["p_value"].between(1 / 5, 1).all()
    assert effects["selectivity_p_value"].between(1 / 5, 1).all()


def test_selectivity_is_own_effect_minus_the_mean_of_the_others(effects, modules):
    for module in modules:
        rows = effects[effects["module"] == module.label].set_index("category")
        assert rows["own"].sum() == 1
        assert rows.index[rows["own"]][0] == module.category
        others = rows.loc[rows.index != module.category, "effect"].mean()
        assert rows["selectivity"].nunique() == 1
        assert rows["selectivity"].iloc[0] == pytest.approx(
            rows.loc[module.category, "effect"] - others
        )


@pytest.mark.parametrize("batch_size", [1, 3])
def test_batch_size_and_padding_do_not_matter(model, modules, prompts, effects, batch_size):
    other = tlm.module_effects(
        model, modules, prompts, n_controls=4, batch_size=batch_size, progress=False
    )
    check_alike(other, effects)


def test_the_same_seed_gives_the_same_table_and_another_seed_other_controls(
    model, modules, prompts, effects
):
    again = tlm.module_effects(model, modules, prompts, n_controls=4, progress=False)
    pd.testing.assert_frame_equal(again, effects)
    other = tlm.module_effects(model, modules, prompts, n_controls=4, seed=1, progress=False)
    assert not np.allclose(other["control_mean"], effects["control_mean"])
    assert np.allclose(other["effect"], effects["effect"])


def test_one_module_alone_gives_the_rows_it_has_among_all(model, modules, prompts, effects):
    alone = tlm.module_effects(model, modules[1], prompts, n_controls=4, progress=False)
    expected = effects[effects["module"] == 1].reset_index(drop=True)
    # Only what is adjusted over all modules differs.
    adjusted = ["p_holm", "p_bh", "selectivity_p_holm", "selectivity_p_bh"]
    tables = (table.drop(columns=adjusted) for table in (alone, expected))
    check_alike(*tables, rtol=1e-5, atol=1e-8)


def test_units_that_write_have_effects_and_silent_ones_have_none(model, acts, prompts):
    silent = [
        (
            f"blocks.{layer}.mlp.hook_post",
            lambda a, hook: torch.cat([a[..., :3] * 5, a[..., 3:] * 0], dim=-1),
        )
        for layer in range(3)
    ]
    modules = two_modules(acts, np.tile((np.arange(12) >= 3).astype(int), 3))
    with model.hooks(fwd_hooks=silent):
        found = tlm.module_effects(
            model, modules, prompts, method="zero", n_controls=0, progress=False
        )
    effects = found.groupby("module")["effect"]
    assert effects.apply(lambda values: values.abs().min())[0] > 1e-3
    assert effects.apply(lambda values: values.abs().max())[1] < 1e-6


def test_without_categories_there_is_one_and_no_selectivity(model, modules, prompts):
    with pytest.warns(UserWarning, match="are 'animal', 'code'; the prompts have none"):
        found = tlm.module_effects(
            model, modules, prompts["prompt"].tolist(), n_controls=2, progress=False
        )
    assert found["category"].unique().tolist() == ["all"]
    assert found["selectivity"].isna().all()
    assert found["selectivity_p_value"].isna().all()


def test_without_controls_their_columns_are_empty(model, modules, prompts):
    found = tlm.module_effects(model, modules, prompts, n_controls=0, progress=False)
    empty = ["control_mean", "control_std", "p_value", "selectivity_p_value", "control_units"]
    assert found[empty].isna().all(axis=None)
    assert found["effect"].notna().all()


def test_a_control_of_a_module_with_most_of_a_layer_is_as_large(model, acts, prompts):
    labels = np.zeros(36, dtype=int)
    labels[[0, 1, 12, 24]] = 1
    modules = two_modules(acts, labels)
    found = tlm.module_effects(model, modules, prompts, n_controls=2, progress=False)
    sizes = found.groupby("module")[["n_units", "control_units"]].first()
    assert sizes.loc[0].tolist() == [32, 32]
    assert sizes.loc[1].tolist() == [4, 4]


def test_a_module_without_units_changes_nothing(model, acts, prompts, tmp_path):
    modules = two_modules(acts, np.zeros(36, dtype=int))
    assert modules[1].n_units == 0
    with pytest.warns(UserWarning, match="Module 1 has no units, so that every control is the"):
        found = tlm.module_effects(model, modules[1], prompts, n_controls=2, progress=False)
    assert (found[["effect", "control_mean"]].abs() < 1e-9).all(axis=None)
    assert (found["p_value"] == 1).all()
    with pytest.warns(UserWarning, match="every control is the module itself"):
        both = tlm.module_effects(model, modules, prompts, n_controls=1, progress=False)
    tlm.write_report(tmp_path / "page.html", modules, effects=both)


def test_padding_never_counts_in_a_loss():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(1, 5, 7, generator=generator)
    tokens = torch.randint(7, (1, 5), generator=generator)
    short = next_token_losses(logits[:, :3], tokens[:, :3], torch.ones(1, 3).bool())
    mask = torch.tensor([[True, True, True, False, False]])
    assert next_token_losses(logits, tokens, mask).item() == pytest.approx(short.item())


def test_no_hook_stays_behind(model, modules, effects):
    assert all(not point.fwd_hooks for point in model.hook_dict.values())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"metric": "accuracy"}, "metric should be one of 'loss', .*; got 'accuracy'"),
        ({"method": "men"}, "method should be one of 'zero', 'mean', .*; got 'men'"),
        ({"n_controls": -1}, "n_controls should be at least 0; got -1"),
        ({"max_tokens": 1}, "at least two tokens.*; prompt 0 has 1"),
        ({"batch_size": 0}, "batch_size should be at least 1; got 0"),
    ],
)
def test_bad_options_are_refused_before_the_model_runs(model, modules, prompts, options, message):
    def forbidden(activation, hook):
        raise AssertionError("the model ran")

    with (
        model.hooks(fwd_hooks=[("blocks.0.mlp.hook_post", forbidden)]),
        pytest.raises(tlm.ModulesError, match=message),
    ):
        tlm.module_effects(model, modules, prompts, progress=False, **options)


def test_no_modules_and_missing_categories_are_refused(model, modules, prompts):
    with pytest.raises(tlm.ModulesError, match="at least one module; got none"):
        tlm.module_effects(model, [], prompts, progress=False)
    holed = prompts.assign(category=prompts["category"].where(prompts.index != 3))
    with pytest.raises(tlm.ModulesError, match="prompt 3 has none"):
        tlm.module_effects(model, modules, holed, progress=False)


def test_modules_of_another_model_are_refused(other_model, modules, prompts):
    with pytest.raises(tlm.ModulesError, match="should be those of the model"):
        tlm.module_effects(other_model, modules, prompts, progress=False)


def test_p_values_are_adjusted_over_all_cells_and_over_the_modules(effects):
    cells = effects["p_value"].to_numpy()
    np.testing.assert_allclose(effects["p_holm"], multipletests_holm(cells))
    np.testing.assert_allclose(effects["p_bh"], false_discovery_control(cells))
    each = effects.drop_duplicates("module")
    np.testing.assert_allclose(
        each["selectivity_p_bh"], false_discovery_control(each["selectivity_p_value"])
    )
    assert (effects["p_holm"] >= effects["p_bh"] - 1e-12).all()


def multipletests_holm(p_values):
    """Step by step: each ordered value times how many are left, never below an earlier one."""
    order = np.argsort(p_values, kind="stable")
    adjusted, highest = np.empty(len(p_values)), 0.0
    for rank, at in enumerate(order):
        highest = max(highest, min(1.0, p_values[at] * (len(p_values) - rank)))
        adjusted[at] = highest
    return adjusted


def test_z_is_the_distance_from_the_controls(effects):
    expected = (effects["effect"] - effects["control_mean"]) / effects["control_std"]
    np.testing.assert_allclose(effects["z"], expected)
    expected = (effects["selectivity"] - effects["selectivity_control_mean"]) / effects[
        "selectivity_control_std"
    ]
    np.testing.assert_allclose(effects["selectivity_z"], expected)


def test_excluded_units_are_ablated_by_no_one(model, modules, prompts, acts, monkeypatch):
    exclude = acts.units.select(np.arange(0, 36, 3))
    seen = []

    class Watched(prompt_runs.JoinedEdits):
        def __init__(self, sets, recipe):
            seen.extend(sets)
            super().__init__(sets, recipe)

    monkeypatch.setattr(prompt_runs, "JoinedEdits", Watched)
    for controls in ("layer", "magnitude", "attribution"):
        found = tlm.module_effects(
            model,
            modules,
            prompts.head(4),
            n_controls=3,
            controls=controls,
            exclude=exclude,
            progress=False,
        )
        assert (found["controls"] == controls).all()
    assert len(seen) > 20
    for units in seen:
        assert not set(units.flat()) & set(exclude.flat())


def test_edits_are_built_once_however_many_batches_there_are(model, modules, prompts, monkeypatch):
    built = []

    class Watched(prompt_runs.JoinedEdits):
        def __init__(self, sets, recipe):
            built.append(len(sets))
            super().__init__(sets, recipe)

    monkeypatch.setattr(prompt_runs, "JoinedEdits", Watched)
    tlm.module_effects(model, modules, prompts, n_controls=2, batch_size=2, progress=False)
    assert built == [len(modules) * 3]  # of all targets and controls together


def test_an_intervention_of_scale_one_has_no_effect(model, modules, prompts):
    found = tlm.module_effects(
        model, modules, prompts, method="scale", factor=1.0, n_controls=1, progress=False
    )
    assert (found["effect"].abs() < 1e-6).all()


def test_keeping_only_a_module_is_losing_the_rest(model, modules, prompts):
    found = tlm.module_effects(
        model, modules[0], prompts, method="zero", keep_only=True, n_controls=0, progress=False
    )
    rest = replace(modules[0], units=modules[0].units.complement())
    expected = tlm.module_effects(model, rest, prompts, method="zero", n_controls=0, progress=False)
    np.testing.assert_allclose(found["effect"], expected["effect"], atol=1e-6)


def test_resampling_depends_on_the_seed_and_not_on_the_batch(model, modules, prompts):
    reference = tlm.collect_reference(model, prompts, n_tokens=30, progress=False)

    def effects(**options):
        found = tlm.module_effects(
            model,
            modules,
            prompts,
            method="resample",
            reference=reference,
            n_controls=1,
            controls="magnitude",
            progress=False,
            **options,
        )
        return found["effect"].to_numpy()

    np.testing.assert_allclose(effects(batch_size=1), effects(batch_size=16), atol=1e-5)
    assert not np.allclose(effects(seed=0), effects(seed=1))


def test_excluded_units_are_kept_when_only_the_module_is(model, modules, prompts, acts):
    # Nothing is left to ablate: all that is not the module's is excluded.
    found = tlm.module_effects(
        model,
        modules[0],
        prompts,
        method="zero",
        keep_only=True,
        exclude=modules[0].units.complement(),
        n_controls=0,
        progress=False,
    )
    assert (found["effect"].abs() < 1e-6).all()


def test_options_of_places_are_refused(model, modules, prompts):
    with pytest.raises(tlm.ModulesError, match=r"positions should be one of 'content', 'all'"):
        tlm.module_effects(model, modules, prompts, positions="last", progress=False)


@pytest.mark.parametrize("batch_size", [1, 4, 100])
def test_how_many_interventions_share_a_pass_does_not_matter(model, modules, prompts, batch_size):
    options = {"n_controls": 3, "progress": False}
    found = tlm.module_effects(model, modules, prompts, batch_size=batch_size, **options)
    expected = tlm.module_effects(model, modules, prompts, batch_size=16, **options)
    np.testing.assert_allclose(found["effect"], expected["effect"], atol=1e-5)
    np.testing.assert_allclose(found["control_mean"], expected["control_mean"], atol=1e-5)


def test_controls_that_cannot_be_are_refused(model, modules, prompts, acts, other_model):
    with pytest.raises(tlm.ModulesError, match="controls should be one of 'layer', 'magnitude'"):
        tlm.module_effects(model, modules, prompts, controls="size")
    nameless = two_modules(acts, np.arange(36) % 2)
    with pytest.raises(tlm.ModulesError, match="controls='magnitude' needs"):
        tlm.module_effects(model, nameless, prompts, controls="magnitude")
    other = tlm.collect(other_model, prompts, progress=False).units
    with pytest.raises(tlm.ModulesError, match="exclude should be units of the modules' model"):
        tlm.module_effects(model, modules, prompts, exclude=other)
