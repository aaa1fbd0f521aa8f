"""``explore`` on a tiny model: what it finds, what the page may ask for, what is shown of it."""

import asyncio
import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

import tl_modules as tlm
from tests.test_hostile_text import MARKUP, TAGS, Tags
from tl_modules.interventions.strata import Strata
from tl_modules.models.losses import token_losses

PROMPT, OTHER = "the cat sat on the mat", "the dog ran on the tree"


@pytest.fixture
def explorer(model, modules):
    return tlm.explore(model, modules, prompt=PROMPT)


def by_hand(model, units, method, modules, **options):
    """Losses of the prompt's tokens, and the last logits, under an edit of these units."""
    tokens = model.to_tokens(PROMPT)
    where = tlm.content_positions(model, tokens)
    module = replace(modules[0], units=units)
    with module.ablated(model, method, positions=where, **options), torch.inference_mode():
        logits = model(tokens)
    mask = torch.ones_like(tokens, dtype=torch.bool)
    return token_losses(logits, tokens, mask)[0], logits[0, -1]


@pytest.mark.parametrize("kind", ["ablate", "scale", "patch"])
def test_numbers_are_those_of_an_intervention_by_hand_beside_units_of_the_same_layers(
    explorer, model, modules, kind
):
    found = explorer.run(kind=kind, factor=2.5, other_prompt=OTHER, chosen=[0, 2], control=3)
    method = {"ablate": "mean"}.get(kind, kind)
    options = {"scale": {"factor": 2.5}, "patch": {}, "ablate": {}}[kind]
    if kind == "patch":
        options = {"source": model.run_with_cache(model.to_tokens(OTHER))[1]}
    changed = modules.units.select(np.isin(modules.unit_labels, [0, 2]))
    drawn = Strata.by_layer(changed).draw(changed, np.random.default_rng([0, 3]))
    assert (drawn.counts() == changed.counts()).all()
    clean, _ = by_hand(model, changed, "scale", modules, factor=1.0)
    for run, units in (("changed", changed), ("control", drawn)):
        losses, last = by_hand(model, units, method, modules, **options)
        assert found.losses["change"][run] == pytest.approx(
            float((losses - clean).mean()), abs=1e-5
        )
        column = found.tokens["effect" if run == "changed" else "control"]
        np.testing.assert_allclose(column[1:], losses - clean, atol=1e-4)
        text = found.next_tokens["token"][0]
        share = float(last.softmax(0)[model.tokenizer.convert_tokens_to_ids(text)])
        assert found.next_tokens[run][0] == pytest.approx(share, abs=1e-5)
    assert found.losses["change"]["changed"] != found.losses["change"]["control"]


def test_activity_is_token_values_weighted_by_units(explorer, model, modules):
    values = tlm.token_values(model, modules, [PROMPT], progress=False)
    weights = [modules[0].n_units, modules[1].n_units]
    wanted = np.average(values[[0, 1]], axis=1, weights=weights)
    found = explorer.run(chosen=[0, 1]).tokens
    np.testing.assert_allclose(found["activity"], wanted, rtol=1e-5)
    assert found["token"].tolist() == values["token"].tolist()


def test_text_is_what_generate_writes_under_the_ablation(explorer, model, modules):
    texts = explorer.run(n_new_tokens=12).texts["text"]
    tokens = model.to_tokens(PROMPT)
    where = torch.cat([tlm.content_positions(model, tokens), torch.ones(1, 12).bool()], dim=1)
    options = {"max_new_tokens": 12, "do_sample": False, "verbose": False}
    with modules[0].ablated(model, "mean", positions=where):
        written = model.generate(tokens, **options)[0, tokens.shape[1] :]
    wanted = model.tokenizer.decode(written, skip_special_tokens=True)
    assert texts["changed"].split() == wanted.split()
    assert texts["changed"] != texts["clean"]
    patched = explorer.run(kind="patch", other_prompt=OTHER, n_new_tokens=12).texts["text"]
    assert patched["clean"] == texts["clean"]


def test_a_core_changes_its_first_units_alone(explorer, modules):
    assert explorer.run(core_size=2).n_units == 2
    scores = np.arange(len(modules.units), dtype=float)
    assert explorer.run(core_size=1000).n_units == modules[0].n_units
    ranked = tlm.explore(explorer._runner.model, modules, ranking=scores, prompt=PROMPT)
    last = np.flatnonzero(modules.unit_labels == 0)[-1]
    ranked.run(core_size=1)
    assert ranked._session.changed_units().tolist() == [last]


def test_cores_come_first_and_draw_their_curve(model, modules):
    own = modules.units.select(np.flatnonzero(modules.unit_labels == 1)[-2:])
    cores = SimpleNamespace(
        units=own.to_frame().assign(module=1, score=[2.0, 1.0]),
        table=pd.DataFrame(
            {"module": [1, 1, 1], "ranking": ["core", "core", "fit"], "n_units": [4, 2, 2]}
        ).assign(selectivity=[0.5, 0.25, 0.1]),
    )
    explorer = tlm.explore(model, modules, cores=cores, prompt=PROMPT)
    explorer.run(chosen=[1], core_size=2)
    assert explorer._session.changed_units().tolist() == own.flat().tolist()
    assert explorer.state()["core"]["curve"] == [[2.0, 0.25], [4.0, 0.5]]
    explorer.move([(0, 0)], 1 if modules.unit_labels[0] != 1 else 0)
    assert explorer.state()["core"]["curve"] is None  # it was of other units


def test_edits_give_a_set_that_the_rest_of_the_package_takes(explorer, model, prompts):
    explorer.rename(0, "zero")
    explorer.merge([0, 1])
    explorer.split(0, n=3)
    assert explorer.modules[0].n_units == 3
    assert len(explorer.history) == 3
    found = tlm.module_effects(model, explorer.modules, prompts, n_controls=1, progress=False)
    assert set(found["module"]) == {0, 1, 2}


def test_verdicts_are_shown_until_an_edit_makes_them_old(model, modules, prompts):
    effects = tlm.module_effects(model, modules, prompts, n_controls=3, progress=False)
    explorer = tlm.explore(model, modules, effects, prompt=PROMPT)
    state = explorer.state()
    assert state["sentence"] == tlm.verdict_sentence(effects)
    assert [one["verdict"] for one in state["modules"]] == tlm.verdicts(effects)["verdict"].tolist()
    assert state["sentence"] in explorer._repr_html_()
    explorer.merge([0, 1])
    assert explorer.state()["modules"][0]["verdict"] == ""


def test_questions_that_cannot_be_answered_are_refused(explorer, model):
    for question in (
        {"prompt": ""},
        {"prompt": PROMPT, "kind": "patch", "other_prompt": "  "},
        {"other_prompt": "the cat"},
    ):
        with pytest.raises(tlm.ModulesError):
            explorer.run(**question)
    explorer.run(kind="ablate")
    model.train()
    try:
        with pytest.raises(tlm.ModulesError, match="eval mode"):
            explorer.run(chosen=[1])
    finally:
        model.eval()


def test_no_module_and_one_token_are_answered_too(explorer):
    assert explorer.run(chosen=[]).losses["change"].tolist() == [0, 0, 0]
    found = explorer.run(chosen=[0], prompt="cat")
    state = json.dumps(explorer.state(), allow_nan=False)
    assert "NaN" not in state
    assert len(found.tokens) <= 2


def test_modules_without_prompts_or_means_wait_for_a_prompt(model, modules):
    bare = replace(modules, samples=modules.samples.drop(columns="prompt"), normaliser=None)
    explorer = tlm.explore(model, bare)
    assert explorer.outcome is None
    found = explorer.run(prompt=PROMPT)
    assert found.tokens["activity"].isna().all()
    assert np.isfinite(found.losses["change"]).all()


def test_markup_stays_text_without_widgets(model, modules, monkeypatch):
    explorer = tlm.explore(model, modules, prompt=PROMPT)
    explorer.rename(0, MARKUP[1])
    explorer.run(prompt=f"{MARKUP[0]} the cat")
    found = Tags(explorer._repr_html_())
    assert set(found.tags) <= TAGS
    assert found.is_harmless()
    monkeypatch.setattr("tl_modules.report.explorer.explorer.find_spec", lambda _: None)
    bundle = explorer._repr_mimebundle_()
    assert set(bundle) == {"text/plain", "text/html"}
    assert "pip install anywidget" in bundle["text/html"]
    with pytest.raises(tlm.ModulesError, match="pip install anywidget"):
        explorer.widget()


@pytest.fixture
def widget(explorer):
    pytest.importorskip("anywidget", reason="the extra 'viz' is not installed")
    return explorer.widget()


def says(widget, **message):
    widget._receive(widget, message, [])
    return widget.status


def test_the_page_edits_and_asks(widget, explorer):
    assert widget.view().keys() == {"application/vnd.jupyter.widget-view+json"}
    assert says(widget, do="ask", question={"chosen": [1], "kind": "scale"})["said"] == "Done."
    assert widget.state["question"]["chosen"] == [1]
    assert widget.state["outcome"]["n_units"] == explorer.modules[1].n_units
    says(widget, do="rename", module=1, name="one")
    says(widget, do="pin", module=1)
    assert widget.state["modules"][1]["name"] == explorer.modules[1].title == "one"
    assert widget.state["modules"][1]["pinned"]
    says(
        widget,
        do="move",
        listed=[int(np.argmax(explorer.modules.unit_labels == 1))],
        typed="",
        to=0,
    )
    says(widget, do="split", module=0, n=2)
    says(widget, do="keep_core", module=0, n=1)
    says(widget, do="merge", modules=[0, 1])
    assert len(explorer.history) == 5
    for _ in range(5):
        assert widget.state["can_undo"]
        says(widget, do="undo")
    assert not widget.state["can_undo"]


@pytest.mark.parametrize(
    "message",
    [
        {},
        {"do": "__init__"},
        {"do": "ask"},
        {"do": "ask", "question": {"kind": "x"}},
        {"do": "ask", "question": [1]},
        {"do": "ask", "question": {"chosen": 5}},
        {"do": "merge", "modules": "01"},
        {"do": "merge", "modules": None},
        {"do": "rename", "module": 0, "name": None},
        {"do": "move", "listed": ["a"], "typed": "", "to": 0},
        {"do": "move", "listed": [10**9], "typed": "", "to": 0},
        {"do": "move", "listed": [0.5], "typed": "", "to": 0},
        {"do": "split", "module": 0, "n": "3"},
        {"do": "split", "module": 0, "layer": "3"},
        {"do": "keep_core", "module": 0, "n": None},
        {"do": "undo"},
    ],
)
def test_what_the_page_cannot_ask_is_said_and_changes_nothing(widget, explorer, message):
    before = explorer.modules, explorer._session.question
    assert says(widget, **message)["error"]
    assert (explorer.modules, explorer._session.question) == before


def test_a_run_stops_between_steps_and_a_later_one_replaces_it(widget, explorer):
    seen = []
    widget.observe(lambda change: seen.append(change["new"]["said"]), "status")

    async def play():
        says(widget, do="ask", question={"chosen": [1], "n_new_tokens": 40})
        await asyncio.sleep(0)
        says(widget, do="stop")
        await asyncio.gather(*widget._tasks)
        assert widget.status["said"] == "Stopped."
        assert not any(said.startswith("writing") for said in seen)
        says(widget, do="ask", question={"chosen": [2]})
        says(widget, do="ask", question={"chosen": [0], "n_new_tokens": 0})
        await asyncio.gather(*widget._tasks)

    asyncio.run(play())
    assert widget.status["said"] == "Done."
    assert seen.count("Done.") == 1
    assert widget.state["outcome"]["n_units"] == explorer.modules[0].n_units
