"""What targets leave of a concept, against probes fitted and scored one prompt at a time."""

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import tl_modules as tlm
from tl_modules.causal.concepts import _aucs
from tl_modules.models.output_layer import output_layer
from tl_modules.tables.bootstrap import N_RESAMPLES, bootstrap_indices

QUIET = {"progress": False}


@pytest.fixture(scope="module")
def halves(prompts):
    groups = prompts.groupby("category")
    return groups.head(5), groups.tail(3)


@pytest.fixture(scope="module")
def targets(model, prompts, modules):
    sets = [prompts.loc[prompts["category"] == name] for name in ("animal", "code")]
    at = [f"blocks.{layer}.hook_resid_post" for layer in range(3)]
    return [modules[0], tlm.related.leace(model, *sets, at, category="animal", **QUIET)]


@pytest.fixture(scope="module")
def table(model, halves, targets):
    fit, test = halves
    tests = {"held out": test, "backwards": test.iloc[::-1]}
    return tlm.concept_effects(model, targets, "animal", fit, tests, n_controls=3, **QUIET)


def by_hand(model, frame, name):
    """Each prompt's mean state but for the first token, and its loss."""
    states, losses = [], []
    for prompt in frame["prompt"]:
        tokens = model.to_tokens(prompt)
        with torch.inference_mode():
            logits, cache = model.run_with_cache(tokens)
        state = cache[name][0]
        states.append(state[1:].double().mean(0).numpy())
        scores = logits[0, :-1].double().log_softmax(-1)
        losses.append(-scores.gather(1, tokens[0, 1:, None]).mean().item())
    return np.stack(states), np.array(losses)


def probed(fit, truth, tests, test_truth):
    probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)).fit(fit, truth)
    return roc_auc_score(test_truth, probe.decision_function(tests))


@pytest.mark.parametrize("number", [0, 1])
def test_the_probe_and_the_losses_are_those_of_single_prompts(
    model, halves, targets, table, number
):
    fit, test = halves
    name, target = output_layer(model).hook_name, targets[number]
    truths = [(frame["category"] == "animal").to_numpy() for frame in (fit, test)]
    before = [by_hand(model, frame, name) for frame in (fit, test)]
    with target.ablated(model, positions="content"):
        after = [by_hand(model, frame, name) for frame in (fit, test)]
    label = "leace" if number else str(targets[0].label)
    row = table[(table["label"] == label) & (table["prompts"] == "held out")].iloc[0]
    assert row["n_with"] == row["n_without"] == 3
    expected = [probed(run[0][0], truths[0], run[1][0], truths[1]) for run in (before, after)]
    assert row["auc_clean"] == pytest.approx(expected[0])
    assert row["auc"] == pytest.approx(expected[1])
    rises = after[1][1] - before[1][1]
    assert row["lost"] == pytest.approx(rises[~truths[1]].mean(), abs=1e-5)
    assert row["harm"] == pytest.approx(rises[truths[1]].mean(), abs=1e-5)


def test_each_number_has_controls_and_an_interval(table):
    for name in ("auc", "lost", "harm"):
        assert table[f"{name}_control_mean"].notna().all()
        assert (table[f"{name}_ci_low"] <= table[name] + 1e-12).all()
        assert (table[name] <= table[f"{name}_ci_high"] + 1e-12).all()
        assert set(table[f"{name}_p_value"]) <= {k / 4 for k in range(1, 5)}
    assert table["auc_clean"].between(0, 1).all()


def test_the_order_of_test_prompts_does_not_matter(table):
    sets = [
        table.loc[table["prompts"] == name].drop(columns="prompts").reset_index(drop=True)
        for name in ("held out", "backwards")
    ]
    exact = [name for name in table if "_ci_" not in name and name != "prompts"]
    pd.testing.assert_frame_equal(sets[0][exact], sets[1][exact], atol=1e-9)


def test_what_it_cost_beside_controls_is_what_module_effects_says(model, halves, targets, table):
    effects = tlm.module_effects(model, targets, halves[1], n_controls=3, **QUIET)
    effects = effects.set_index(["module", "category"])
    for target in (targets[0].label, "leace"):
        row = table.loc[(table["label"] == str(target)) & (table["prompts"] == "held out")].iloc[0]
        for name, category in (("harm", "animal"), ("lost", "code")):
            expected = effects.loc[(target, category)]
            assert row[name] == pytest.approx(expected["effect"], abs=1e-5)
            assert row[f"{name}_control_mean"] == pytest.approx(expected["control_mean"], abs=1e-5)
            # Of three controls, as many cannot be as high as are as low.
            assert row[f"{name}_p_value"] == expected["p_value"]


def test_erased_where_the_probe_reads_the_probe_knows_nothing_of_these_tokens(model, prompts):
    # Prompts of one length: then a mean over a prompt's tokens has no weight of its own.
    texts = [f"{word} {word} the red cat" for word in ("one", "two", "dog", "bird", "three", "big")]
    frame = pd.DataFrame({"prompt": texts, "category": ["animal", "code"] * 3})
    point = "blocks.2.hook_resid_post"
    sets = [frame.loc[frame["category"] == name] for name in ("animal", "code")]
    erasure = tlm.related.leace(model, *sets, point, shrinkage=False, **QUIET)
    found = tlm.concept_effects(
        model, erasure, "animal", frame, frame, hook_name=point, n_controls=2, **QUIET
    )
    assert found["prompts"].tolist() == ["all"]
    assert found["auc_clean"].item() == 1
    assert found["auc"].item() < 0.8


def test_a_single_prompt_has_no_interval(model, halves, targets):
    fit, test = halves
    one = test.groupby("category").head(1)
    found = tlm.concept_effects(model, targets[1], "animal", fit, one, n_controls=1, **QUIET)
    assert found[["auc_ci_low", "lost_ci_low", "harm_ci_high"]].isna().all(axis=None)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"concept": "plant"}, "fit should hold prompts of the category 'plant'"),
        ({"tests": {}}, "tests should hold at least one set"),
        ({"hook_name": "nowhere"}, "it has none named"),
    ],
)
def test_what_cannot_be_is_refused(model, halves, targets, change, said):
    fit, test = halves
    given = {"targets": targets, "concept": "animal", "fit": fit, "tests": {"x": test}, **QUIET}
    with pytest.raises(tlm.ModulesError, match=said):
        tlm.concept_effects(model, **given | change)


def test_test_prompts_of_one_kind_are_refused(model, halves, targets):
    fit, test = halves
    only = test.loc[test["category"] == "animal"]
    with pytest.raises(tlm.ModulesError, match=r"tests\['x'\] should hold prompts .* 3 of 3"):
        tlm.concept_effects(model, targets, "animal", fit, {"x": only}, **QUIET)


def test_a_hook_point_that_holds_no_states_is_refused(model, halves, targets):
    fit, test = halves
    options = {"hook_name": "blocks.0.attn.hook_pattern", **QUIET}
    with pytest.raises(tlm.ModulesError, match="should have a batch and a position axis"):
        tlm.concept_effects(model, targets, "animal", fit, test, **options)


def test_the_interval_is_that_of_prompts_resampled_on_each_side():
    scores, truth = np.random.default_rng(0).normal(size=(2, 12)), np.arange(12) < 5
    found = _aucs(scores, truth, seed=3)
    drawn = scores[0][bootstrap_indices(truth, N_RESAMPLES, 3)]
    told = (drawn[:, :5, None] > drawn[:, None, 5:]).mean(axis=(1, 2))
    assert [found["ci_low"], found["ci_high"]] == pytest.approx(np.quantile(told, [0.025, 0.975]))
    assert found["ci_high"] - found["ci_low"] > 0.2


def test_a_score_below_one_half_is_no_further_erased():
    truth = np.array([True, True, False, False])
    scores = np.array([[0.0, 1, 2, 3], [1, 0, 0, 1], [3, 2, 1, 0]])  # AUC 0, 0.5 and 1
    assert _aucs(scores, truth, seed=0)["p_value"] == 1
