"""The loss over prompts, over answers and over both, against token losses worked out by hand."""

import inspect

import numpy as np
import pandas as pd
import pytest
import torch

import tl_modules as tlm
from tests.causal.test_answers import measured as surprise_of
from tests.conftest import unsaid
from tl_modules.causal import controls
from tl_modules.causal.ablation_path import ablation_path
from tl_modules.causal.metrics import make_task
from tl_modules.causal.prompt_runs import no_intervention, run_task
from tl_modules.causal.row_limits import RowLimit

pytestmark = unsaid

ROWS = pd.DataFrame(
    {
        "prompt": [
            "the cat sat on the",
            "one plus two",
            "not",
            "if a red bird flew over the big",
            "a dog ran",
            "def return (",
        ],
        "answer": ["mat", "equals three", "is was why", "house", "under the tree", "one ) :"],
        "category": ["animal", "code"] * 3,
        "separator": " ",
    }
)
OTHERS = ROWS.assign(prompt="why " + ROWS["prompt"])
QUIET = {"progress": False}
CHOICES = ("prompt", "answer", "all")


def token_losses(model, prompt, answer, hooks=()):
    """The losses of a prompt's tokens from the second on, and those of its answer's tokens."""
    start = model.to_tokens(prompt).shape[1]
    tokens = model.to_tokens(f"{prompt} {answer}")
    with torch.inference_mode():
        logits = model.run_with_hooks(tokens, fwd_hooks=list(hooks))[0, :-1].double()
    losses = -logits.log_softmax(-1).gather(1, tokens[0, 1:, None])[:, 0].numpy()
    return {"prompt": losses[: start - 1], "answer": losses[start - 1 :], "all": losses}


def by_hand(model, frame, loss_on, hooks=()):
    pairs = zip(frame["prompt"], frame["answer"], strict=True)
    return np.array([token_losses(model, *pair, hooks)[loss_on].mean() for pair in pairs])


def counts(model, frame, loss_on):
    pairs = zip(frame["prompt"], frame["answer"], strict=True)
    return np.array([len(token_losses(model, *pair)[loss_on]) for pair in pairs])


def measured(model, frame, loss_on, batch_size=4):
    task = make_task(model, frame, "loss", batch_size, None, loss_on=loss_on)
    return run_task(model, task, [no_intervention] * 2, RowLimit(16))


def effects(model, modules, frame, **options):
    options = {"n_controls": 0} | options
    return tlm.module_effects(model, modules, frame, **options, **QUIET)


def each_apart(frame):
    return frame.assign(category=[f"prompt {row}" for row in range(len(frame))])


@pytest.mark.parametrize("batch_size", [1, 4, 6])
@pytest.mark.parametrize("loss_on", CHOICES)
def test_the_loss_is_the_mean_over_the_named_tokens_whatever_the_batch(model, loss_on, batch_size):
    expected = by_hand(model, ROWS, loss_on)
    np.testing.assert_allclose(measured(model, ROWS, loss_on, batch_size), [expected] * 2, 1e-4)


def test_the_default_is_the_loss_of_prompts_alone_to_the_last_bit(model, modules):
    without = ROWS.drop(columns=["answer", "separator"])
    options = {"n_controls": 3}
    expected = effects(model, modules, without, **options)
    for given in ({}, {"loss_on": "prompt"}):
        found = effects(model, modules, ROWS, **options, **given)
        pd.testing.assert_frame_equal(found, expected, check_exact=True)
    clean = by_hand(model, ROWS, "prompt")
    for category in ("animal", "code"):
        loss = expected.loc[expected["category"] == category, "loss"].iloc[0]
        assert loss == pytest.approx(clean[ROWS["category"] == category].mean(), rel=1e-5)


def test_the_functions_have_one_default():
    functions = [tlm.module_effects, tlm.with_components, tlm.causal_cores, tlm.dissociation]
    functions += [tlm.steering_effects, tlm.concept_effects, tlm.unit_estimates]
    functions += [tlm.specialised_parts, tlm.shared_units]
    functions += [tlm.training.unlearn, tlm.training.forgetting, tlm.collect]
    found = {inspect.signature(each).parameters["loss_on"].default for each in functions}
    assert found == {"prompt"}


@pytest.mark.parametrize("positions", ["content", "all"])
def test_losses_and_effects_of_both_parts_sum_to_those_of_all_tokens(model, modules, positions):
    apart = each_apart(ROWS)
    sums = {}
    for loss_on in CHOICES:
        table = effects(model, modules[0], apart, loss_on=loss_on, positions=positions)
        numbers = table[["loss", "effect"]].to_numpy()
        sums[loss_on] = counts(model, ROWS, loss_on)[:, None] * numbers
    assert np.abs(sums["answer"][:, 1]).min() > 1e-5
    np.testing.assert_allclose(sums["prompt"] + sums["answer"], sums["all"], atol=2e-5)


def test_an_end_of_text_counts_where_the_answer_writes_it(model):
    eos = model.tokenizer.eos_token_id
    row = ROWS.iloc[:1]
    ended = row.assign(answer=row["answer"] + model.tokenizer.eos_token)
    found = {}
    for name, frame in (("bare", row), ("ended", ended)):
        found[name] = measured(model, frame, "answer")[0]
        np.testing.assert_allclose(
            measured(model, frame, "prompt")[0], by_hand(model, row, "prompt")
        )
    text = model.to_tokens("the cat sat on the mat")
    with torch.inference_mode():
        last = model(text)[0, -1].double().log_softmax(-1)[eos]
    assert counts(model, ended, "answer") == counts(model, row, "answer") + 1
    expected = (found["bare"] * counts(model, row, "answer") - float(last)) / 2
    np.testing.assert_allclose(found["ended"], expected, rtol=1e-4)


def test_the_loss_of_answers_is_minus_their_log_probability_per_token(model):
    expected = surprise_of(model, ROWS, "answer_logprob")[0] / counts(model, ROWS, "answer")
    np.testing.assert_allclose(measured(model, ROWS, "answer")[0], expected, rtol=1e-6)


def test_an_effect_is_the_rise_of_the_loss_of_the_named_tokens(model, modules):
    hooks = modules[1].fwd_hooks(method="zero")
    for loss_on in CHOICES:
        rise = by_hand(model, ROWS, loss_on, hooks) - by_hand(model, ROWS, loss_on)
        options = {"method": "zero", "positions": "all", "loss_on": loss_on}
        found = effects(model, modules[1], each_apart(ROWS), **options)
        np.testing.assert_allclose(found["effect"], rise, atol=1e-5)
        assert ("loss_on" in found) == (loss_on != "prompt")
        assert set(found.get("loss_on", [loss_on])) == {loss_on}


@pytest.mark.parametrize("loss_on", ["answer", "all"])
def test_every_function_of_the_loss_passes_the_choice_on(model, modules, loss_on):
    module, other = modules[0], modules[1]
    table = effects(model, module, ROWS, loss_on=loss_on).set_index("category")
    assert not np.allclose(table["effect"], effects(model, module, ROWS)["effect"], atol=1e-4)

    groups = [ROWS[ROWS["category"] == name] for name in ("animal", "code")]
    given = {"loss_on": loss_on, "n_controls": 19, **QUIET}
    found = tlm.dissociation(model, module, other, *groups, **given).effects
    own = found.loc[found["module"] == "P", "effect"]
    np.testing.assert_allclose(own, table["effect"][["animal", "code"]], atol=1e-6)
    assert set(found["loss_on"]) == {loss_on}

    given = {"loss_on": loss_on, "n_controls": 1, **QUIET}
    found = tlm.concept_effects(model, module, "animal", OTHERS, ROWS, **given)
    assert found["lost"].item() == pytest.approx(table["effect"]["code"], abs=1e-6)
    assert found["loss_on"].item() == loss_on

    parts = tlm.with_components(model, module, ROWS, components=["mlp"], **given)
    assert set(parts["loss_on"]) == {loss_on}
    clean = by_hand(model, ROWS, loss_on)[ROWS["category"] == "code"].mean()
    of_code = parts.loc[parts["category"] == "code", "loss"]
    np.testing.assert_allclose(of_code, clean, rtol=1e-5)

    scaled = effects(model, module, ROWS, loss_on=loss_on, method="scale", factor=2.0)
    options = {"factors": [2.0], "starts": ["the cat"], "n_new_tokens": 1, "scorer": len}
    found = tlm.steering_effects(model, module, ROWS, **options, **given)
    own = scaled.loc[scaled["own"], "effect"].item()
    assert found["own_effect"].item() == pytest.approx(own, abs=1e-6)
    assert found["loss_on"].item() == loss_on


@pytest.mark.parametrize("by", ["signed", "path"])
def test_cores_are_chosen_and_tested_by_the_loss_of_answers(model, acts, modules, by):
    options = {"loss_on": "answer", "rankings": (), "n_controls": 0, "sizes": [2], "by": by}
    found = tlm.causal_cores(model, modules, OTHERS, ROWS, **options, **QUIET)
    whole = effects(model, modules, ROWS, loss_on="answer", reference=modules)
    own = whole.loc[whole["own"]].set_index("module")["effect"]
    largest = found.table.sort_values("n_units").drop_duplicates("module", keep="last")
    np.testing.assert_allclose(
        largest.set_index("module")["effect"].sort_index(), own.sort_index(), atol=1e-6
    )
    assert set(found.table["loss_on"]) == {"answer"}
    if by == "signed":
        estimates = tlm.unit_estimates(model, OTHERS, modules, loss_on="answer", **QUIET)
        first = found.units.iloc[0]
        score = estimates.contrast(first["category"])[
            found.cores.units.to_frame()
            .query("layer == @first.layer and unit == @first.unit")
            .index[0]
        ]
        assert first["score"] == pytest.approx(score, abs=1e-6)


@pytest.mark.parametrize("loss_on", ["answer", "all"])
def test_the_path_of_an_ablation_sums_to_the_rise_of_the_named_tokens(
    model, acts, modules, loss_on
):
    task = make_task(model, ROWS, "loss", 4, None, "content", loss_on=loss_on)
    given = (model, task, modules[0].units, acts, lambda n: None)
    parts = ablation_path(*given, n_steps=24, of_content=True)
    rises = effects(model, modules[0], each_apart(ROWS), loss_on=loss_on, reference=acts)["effect"]
    np.testing.assert_allclose(parts.sum(axis=1), rises, atol=0.02 * np.abs(rises).max())


def test_estimates_are_gradients_of_the_loss_of_the_named_tokens(model, acts):
    apart = each_apart(ROWS)
    options = {"positions": "all", "batch_size": 4, **QUIET}
    found = {
        loss_on: tlm.unit_estimates(model, apart, acts, loss_on=loss_on, **options).signed
        for loss_on in CHOICES
    }
    n_tokens = {loss_on: counts(model, ROWS, loss_on)[:, None] for loss_on in CHOICES}
    answers = tlm.unit_estimates(model, apart, acts, metric="answer_logprob", **options).signed
    np.testing.assert_allclose(n_tokens["answer"] * found["answer"], answers, atol=1e-5)
    assert np.abs(answers).max() > 1e-2
    sums = [n_tokens[loss_on] * found[loss_on] for loss_on in CHOICES]
    np.testing.assert_allclose(sums[0] + sums[1], sums[2], atol=1e-5)


@pytest.mark.parametrize("loss_on", CHOICES)
def test_shared_units_change_the_loss_of_the_named_tokens(model, acts, loss_on):
    options = {"n_units": 3, "positions": "all", "loss_on": loss_on, **QUIET}
    found = tlm.shared_units(model, ROWS, acts, **options)
    unit = found.table.iloc[0]
    hooks = [ablating(found.units.select(np.array([0])), acts)]
    moved = []
    for prompt, answer in zip(ROWS["prompt"], ROWS["answer"], strict=True):
        ablated, clean = (
            token_losses(model, prompt, answer, each)[loss_on] for each in (hooks, ())
        )
        moved.append(ablated - clean)
    of_animal = (ROWS["category"] == "animal").to_numpy()
    changes = np.array([np.abs(each).mean() for each in moved])
    rises = np.array([each.mean() for each in moved])
    assert unit["measured[animal]"] == pytest.approx(changes[of_animal].mean(), rel=1e-3)
    assert unit["effect"] == pytest.approx(rises.mean(), abs=1e-5)
    estimates = tlm.unit_estimates(
        *(model, ROWS, acts), loss_on=loss_on, positions="all", **QUIET
    ).to_frame()
    row = estimates[(estimates["layer"] == unit["layer"]) & (estimates["unit"] == unit["unit"])]
    magnitude = row["magnitude[animal]"].item()
    assert unit["estimate[animal]"] == pytest.approx(magnitude, rel=1e-4)


def ablating(unit, acts):
    """The hook that puts a unit's mean in the place of its activations."""
    (at,), (number,) = unit.index.tolist(), unit.flat().tolist()

    def hook(activation, hook):
        activation = activation.clone()
        activation[..., at] = float(acts.unit_means[number])
        return activation

    return unit.hook_names[int(unit.hook[0])], hook


def test_parts_are_specialised_by_the_loss_of_the_named_tokens(model, prompts):
    reference = tlm.collect_reference(model, prompts, units="mlp+attn_heads", **QUIET)
    chosen = {}
    for loss_on in CHOICES:
        options = {"loss_on": loss_on, **QUIET}
        parts = tlm.specialised_parts(
            model, ROWS, reference, kinds={"neuron": 5}, metric="loss", **options
        )
        estimates = tlm.unit_estimates(model, ROWS, reference, **options)
        gap = estimates.contrast("animal")
        neurons = np.array(["mlp" in reference.units.hook_names[at] for at in reference.units.hook])
        best = np.argsort(np.where(neurons, -gap, np.inf), kind="stable")[:5]
        chosen[loss_on] = set(best.tolist())
        of_animal = next(part for part in parts if part.label == "animal neurons")
        expected = set(reference.units.select(np.sort(best)).to_frame().itertuples(index=False))
        assert set(of_animal.units.to_frame().itertuples(index=False)) == expected
    assert chosen["answer"] != chosen["prompt"]


def test_parts_and_shared_units_refuse_prompts_without_answers(model, prompts, acts):
    bare = ROWS[["prompt", "category"]]
    reference = tlm.collect_reference(model, prompts, units="mlp+attn_heads", **QUIET)
    with pytest.raises(tlm.ModulesError, match="reads a column 'answer'"):
        tlm.shared_units(model, bare, acts, loss_on="all", **QUIET)
    with pytest.raises(tlm.ModulesError, match="it would cut the answers off"):
        tlm.shared_units(model, ROWS, acts, loss_on="answer", max_tokens=3, **QUIET)
    given = (model, bare, reference)
    with pytest.raises(tlm.ModulesError, match="column 'answer'"):
        tlm.specialised_parts(*given, metric="loss", loss_on="answer", **QUIET)
    with pytest.raises(tlm.ModulesError, match="loss_on goes with metric='loss'"):
        tlm.specialised_parts(model, ROWS, reference, loss_on="answer", **QUIET)


def test_controls_by_attribution_rest_on_the_same_tokens(model, acts, modules, monkeypatch):
    found = []
    real = controls.estimates_of

    def spied(*given, **options):
        found.append(real(*given, **options))
        return found[-1]

    monkeypatch.setattr(controls, "estimates_of", spied)
    options = {"loss_on": "answer", "controls": "attribution", "n_controls": 1}
    effects(model, modules, ROWS, reference=acts, **options)
    expected = tlm.unit_estimates(model, ROWS, acts, loss_on="answer", **QUIET)
    np.testing.assert_allclose(found[0].magnitude, expected.magnitude, atol=1e-6)


def test_patching_runs_the_corrupted_prompts_with_their_answers(model, modules):
    swapped = ROWS.assign(corrupted=ROWS["prompt"].str.replace("the", "a"))
    options = {"method": "patch", "loss_on": "answer"}
    found = effects(model, modules[0], each_apart(swapped), **options)
    moved = (swapped["corrupted"] != swapped["prompt"]).to_numpy()
    assert (np.abs(found["effect"][moved]) > 1e-6).all()
    np.testing.assert_allclose(found["effect"][~moved], 0, atol=1e-6)


@pytest.mark.parametrize(
    ("frame", "options", "message"),
    [
        (
            ROWS[["prompt", "category"]],
            {"loss_on": "answer"},
            "loss_on='answer' reads a column 'answer' beside 'prompt'; the prompts have 'prompt', "
            ".*Add it, or use loss_on='prompt'",
        ),
        (ROWS[["prompt", "category"]], {"loss_on": "all"}, "loss_on='all' reads a column 'answer'"),
        (ROWS.assign(answer=["a", None, *"abcd"]), {"loss_on": "all"}, "prompt 1 has nan|None"),
        (ROWS, {"loss_on": "answer", "max_tokens": 4}, "it would cut the answers off"),
        (ROWS, {"loss_on": "answers"}, "loss_on should be one of 'prompt', 'answer', 'all'"),
        (
            ROWS,
            {"loss_on": "all", "metric": "answer_accuracy"},
            "loss_on goes with metric='loss'; got loss_on='all' with 'answer_accuracy'",
        ),
        (ROWS, {"separator": " "}, "separator should be left out where no answer is read"),
    ],
)
def test_what_does_not_fit_is_refused(model, modules, frame, options, message):
    with pytest.raises(tlm.ModulesError, match=message):
        tlm.module_effects(model, modules, frame, **options, **QUIET)


def test_estimates_and_cores_refuse_prompts_without_answers(model, acts, modules):
    bare = ROWS[["prompt", "category"]]
    with pytest.raises(tlm.ModulesError, match="reads a column 'answer'"):
        tlm.unit_estimates(model, bare, acts, loss_on="all", **QUIET)
    with pytest.raises(tlm.ModulesError, match="loss_on goes with metric='loss'"):
        tlm.unit_estimates(model, ROWS, acts, loss_on="all", metric="answer_logprob", **QUIET)
    with pytest.raises(tlm.ModulesError, match="reads a column 'answer'"):
        tlm.causal_cores(model, modules, OTHERS[["prompt", "category"]], bare, loss_on="answer")
