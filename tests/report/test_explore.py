"""``explore`` on a tiny model: what it finds, what the page may ask for, what is shown of it."""

import asyncio
import html
import json
import threading
from contextlib import contextmanager
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
    asked = {"scale": {"factor": 2.5}, "patch": {"other_prompt": OTHER}}.get(kind, {})
    found = explorer.run(kind=kind, chosen=[0, 2], control=3, **asked)
    assert found.question.kind == kind
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
    ends = [model.tokenizer.pad_token_id, model.tokenizer.eos_token_id]
    options = {"max_new_tokens": 12, "do_sample": False, "verbose": False, "eos_token_id": ends}
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


def test_cores_come_first_and_draw_their_curve(model, modules, prompts):
    options = {"sizes": [2, 4], "rankings": (), "n_controls": 0, "progress": False}
    cores = tlm.causal_cores(model, modules, prompts[:8], prompts[8:], **options)
    explorer = tlm.explore(model, modules, cores=cores, prompt=PROMPT)
    of_one = cores.units.loc[cores.units["module"] == 1]
    explorer.run(chosen=[1], core_size=len(of_one))
    found = modules.units.select(explorer.outcome.asked.units).to_frame()
    assert set(zip(found["layer"], found["unit"], strict=True)) == set(
        zip(of_one["layer"], of_one["unit"], strict=True)
    )
    table = cores.table.query("module == 1 and ranking == 'core'").sort_values("n_units")
    curve = table[["n_units", "selectivity"]].to_numpy().tolist()
    assert explorer.state()["core"]["curve"] == curve
    explorer.move([(0, 0)], 1 if modules.unit_labels[0] != 1 else 0)
    assert explorer.state()["core"]["curve"] is None  # it was of other units
    others = replace(modules, unit_labels=(modules.unit_labels + 1) % 3)
    with pytest.raises(tlm.ModulesError, match="cores should be parts of these 3 modules"):
        tlm.explore(model, others, cores=cores)


@pytest.mark.parametrize(
    ("table", "units", "message"),
    [
        ({"module": [0], "selectivity": [0.5], "n_units": [1]}, {}, r"table lacks \['ranking'\]"),
        ({}, {"unit": [12]}, "should name units of the modules' hook points.*got unit 12 of"),
        ({}, {"unit": [-1]}, "got unit -1 of"),
        ({}, {"unit": [0.5]}, "got unit 0.5 of"),
        ({}, {"hook_name": ["blocks.9.hook"]}, "got unit 0 of 'blocks.9.hook'"),
    ],
)
def test_damaged_tables_of_cores_are_refused(model, modules, table, units, message):
    whole = {"module": [0], "selectivity": [0.5], "n_units": [1], "ranking": ["core"]}
    first = {"module": [0], "hook_name": [modules.units.hook_names[0]], "unit": [0]}
    cores = SimpleNamespace(
        cores=modules, table=pd.DataFrame(table or whole), units=pd.DataFrame(first | units)
    )
    with pytest.raises(tlm.ModulesError, match=message):
        tlm.explore(model, modules, cores=cores)


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
    assert f"<p>{html.escape(state['sentence'])}</p>" in explorer._repr_html_()
    explorer.merge([0, 1])
    assert explorer.state()["modules"][0]["verdict"] == ""
    old = f"{state['sentence']} (Before the edits.)"
    assert f"<p>{html.escape(old)}</p>" in explorer._repr_html_()
    assert explorer.state()["sentence"] == old
    assert explorer.modules.verdict_sentence is None
    explorer.undo()
    assert explorer.state()["sentence"] == state["sentence"]


def test_questions_that_cannot_be_answered_are_refused(explorer, model):
    for question in (
        {"prompt": ""},
        {"prompt": PROMPT, "kind": "patch", "other_prompt": "  "},
        {"other_prompt": "the cat"},
    ):
        with pytest.raises(tlm.ModulesError):
            explorer.run(**question)


@pytest.mark.parametrize(
    ("question", "message"),
    [
        ({"factor": 2.0}, "factor should go with kind='scale'; the kind is 'ablate'"),
        ({"factor": 2.0, "kind": "patch", "other_prompt": OTHER}, "factor should go with"),
        ({"other_prompt": OTHER}, "other_prompt should go with kind='patch'"),
        ({"core_size": 2, "chosen": [0, 1]}, "core_size should go with a single chosen module; 2"),
        ({"core_size": 2, "chosen": []}, "core_size should go with a single chosen module; 0"),
        ({"chosen": "01"}, "chosen should be a list of whole numbers"),
    ],
)
def test_what_a_question_does_not_use_is_refused_and_changes_nothing(explorer, question, message):
    before = explorer.outcome
    with pytest.raises(tlm.ModulesError, match=message):
        explorer.run(**question)
    assert explorer._session.asked().is_like(before.asked)
    assert explorer.outcome is before


@pytest.mark.parametrize(
    ("units", "message"),
    [
        ([3], "units should be a list of pairs of whole numbers; got list. Pass pairs"),
        (3, "units should be a list of pairs"),
        ("0:3", "units should be a list of pairs"),
        ([(0, 10**30)], "unit should be below 12"),
        ([(10**5000, 0)], "no units of layer a whole number of more than 60 digits"),
        ([(0, -(10**5000))], "unit should be at least 0; got a negative whole number"),
    ],
)
def test_units_that_cannot_be_moved_are_refused(explorer, units, message):
    with pytest.raises(tlm.ModulesError, match=message):
        explorer.move(units, 0)
    assert explorer.history == ()


def test_a_text_that_the_context_cannot_hold_is_refused_before_anything_is_run(explorer):
    first = explorer.outcome
    with pytest.raises(tlm.ModulesError, match="should fit the model's context of 64 tokens"):
        explorer.run(n_new_tokens=60)
    assert explorer.outcome is first


@contextmanager
def failing_at(model, number):
    """Let the model's last layer fail at the pass of this number, from 0."""
    passes = iter(range(1000))

    def fail(*_):
        if next(passes) == number:
            raise RuntimeError("out of memory")

    hook = model.hook_dict["blocks.2.mlp.hook_post"].register_forward_hook(fail)
    try:
        yield
    finally:
        hook.remove()


def n_hooks(model):
    """The hooks on a model, of PyTorch and of TransformerLens."""
    parts = {*model.modules(), *model.hook_dict.values()}
    own = sum(len(point.fwd_hooks) for point in model.hook_dict.values())
    return own + sum(len(part._forward_hooks) + len(part._forward_pre_hooks) for part in parts)


def test_after_an_error_no_hook_is_left_and_old_numbers_are_marked(explorer, model):
    first, before = explorer.outcome, n_hooks(model)
    asked = {"kind": "patch", "other_prompt": OTHER, "n_new_tokens": 2}
    fresh = {"prompt": "one plus two is three not"}
    for number in range(6):
        with failing_at(model, number), pytest.raises(RuntimeError, match="out of memory"):
            explorer.run(**asked, **fresh)
        assert n_hooks(model) == before
        state = explorer.state()["outcome"]
        assert not state["is_current"] or state["note"] == "The texts are unfinished."
        if explorer.outcome is first:
            shown = explorer._repr_html_()
            assert "An earlier result" in shown
            assert "Ablated to the mean: module 0" in shown
            assert "Patched from" not in shown
    found = explorer.run(prompt=PROMPT)
    assert found.is_whole
    assert explorer.state()["outcome"]["note"] == ""
    again = explorer.run(kind="ablate", n_new_tokens=0)
    assert again.losses.equals(first.losses)
    assert n_hooks(model) == before


@contextmanager
def at_its_first_pass(model, do):
    """Do something while the model runs, once."""
    left = [do]
    point = model.hook_dict["blocks.2.mlp.hook_post"]
    hook = point.register_forward_hook(lambda *_: left.pop()() if left else None)
    try:
        yield
    finally:
        hook.remove()


def test_a_call_that_is_stopped_while_the_model_runs_says_so(explorer, model):
    first = explorer.outcome
    stopped = {"done": 0, "total": 0, "said": "Stopped.", "error": ""}

    def stop():
        explorer.receive({"do": "stop"})

    def stop_and_fail():
        stop()
        raise RuntimeError("out of memory")

    with (
        at_its_first_pass(model, stop),
        pytest.raises(tlm.ModulesError, match=r"it was stopped, or another.*Run it again"),
    ):
        explorer.run(chosen=[1], kind="scale", factor=3.0)
    assert explorer.status() == stopped
    assert explorer.outcome is first
    with at_its_first_pass(model, stop_and_fail), pytest.raises(RuntimeError, match="memory"):
        explorer.run()
    assert explorer.status() == stopped  # the error is of a run that was given up
    assert explorer.run().question.chosen == (1,)


def test_old_numbers_keep_the_names_of_their_modules(explorer, model):
    explorer.rename(0, "first name")
    assert "first name" in explorer.state()["outcome"]["asked"]
    explorer.run()
    model.train()
    try:
        with pytest.raises(tlm.ModulesError, match="eval mode"):
            explorer.move([(0, 0), (0, 1), (0, 2), (0, 3)], 0)
    finally:
        model.eval()
    assert len(explorer.history) == 2
    explorer.rename(0, "second name")
    assert "first name" in explorer.state()["outcome"]["asked"]
    assert "An earlier result" in explorer._repr_html_()
    explorer.undo()
    explorer.undo()
    assert explorer.state()["outcome"]["is_current"]


def test_a_set_without_units_in_a_module_is_still_explored(explorer, modules):
    units = modules[0].units.to_frame()
    explorer.move(list(zip(units["layer"], units["unit"], strict=True)), 1)
    assert explorer.modules[0].n_units == explorer.outcome.n_units == 0
    assert explorer.outcome.losses["change"].tolist() == [0, 0, 0]
    with pytest.raises(tlm.ModulesError, match="A split should leave units on both sides"):
        explorer.split(0, n=1)
    explorer.undo()
    assert explorer.outcome.n_units == len(units)


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
        {"do": "move", "listed": [2**70], "typed": "", "to": 0},
        {"do": "move", "listed": [], "typed": "0:" + "9" * 5000, "to": 0},
        {"do": "move", "listed": [0], "typed": "", "to": 10**5000},
        {"do": "keep_core", "module": 0, "n": -(10**5000)},
        {"do": "pin", "module": 10**5000},
        {"do": "merge", "modules": [0, 2**70]},
        {"do": "ask", "question": {"control": 10**5000}},
        {"do": "undo"},
    ],
)
def test_what_the_page_cannot_ask_is_said_and_changes_nothing(widget, explorer, message):
    before = explorer.modules, explorer._session.question
    assert says(widget, **message)["error"]
    assert (explorer.modules, explorer._session.question) == before


@pytest.fixture
def played(widget):
    """Plays a coroutine in a loop, as a kernel would, and then ends all runs."""

    def play(scene):
        async def whole():
            await scene()
            await asyncio.gather(*widget._tasks)

        asyncio.run(whole())

    return play


def test_a_run_stops_between_steps_and_a_later_one_replaces_it(widget, explorer, played):
    seen = []
    widget.observe(lambda change: seen.append(change["new"]["said"]), "status")

    async def stopped():
        says(widget, do="ask", question={"chosen": [1], "n_new_tokens": 40})
        await asyncio.sleep(0)
        assert says(widget, do="stop")["said"] == "Stopped."

    async def replaced():
        says(widget, do="ask", question={"chosen": [2]})
        says(widget, do="ask", question={"chosen": [0], "n_new_tokens": 0})

    played(stopped)
    assert widget.status["said"] == "Stopped."
    assert not any(said.startswith("writing") for said in seen)
    assert widget.state["outcome"]["note"].startswith("An earlier result")
    assert "module 0" in widget.state["outcome"]["asked"]
    played(replaced)
    assert widget.status["said"] == "Done."
    assert seen.count("Done.") == 1
    assert widget.state["outcome"]["n_units"] == explorer.modules[0].n_units


def test_a_click_from_another_thread_runs_the_model_in_the_thread_of_the_cells(explorer, model):
    """JupyterLab delivers clicks in a subshell of the kernel: a thread with a loop of its own."""
    pytest.importorskip("anywidget", reason="the extra 'viz' is not installed")
    threads = []

    async def scene():
        widget = explorer.widget()

        async def subshell():
            says(widget, do="ask", question={"chosen": [1], "factor": 3.0, "kind": "scale"})
            while running := asyncio.all_tasks() - {asyncio.current_task()}:
                await asyncio.gather(*running)

        await asyncio.to_thread(asyncio.run, subshell())
        await asyncio.gather(*widget._tasks)
        return widget

    point = model.hook_dict["blocks.0.mlp.hook_post"]
    hook = point.register_forward_hook(lambda *_: threads.append(threading.get_ident()))
    try:
        widget = asyncio.run(scene())
    finally:
        hook.remove()
    assert set(threads) == {threading.get_ident()}
    assert widget.status["said"] == "Done."
    assert explorer.outcome.question.chosen == (1,)


def test_a_stopped_text_is_marked_as_unfinished(widget, explorer, played):
    def stop(change):
        if change["new"]["said"] == "writing with the changed modules":
            says(widget, do="stop")

    widget.observe(stop, "status")
    says(widget, do="ask", question={"n_new_tokens": 20})
    assert widget.status["said"] == "Stopped."
    assert not explorer.outcome.is_whole
    assert explorer.outcome.texts.index.tolist() == ["clean"]
    assert widget.state["outcome"]["note"] == "The texts are unfinished."
    assert "The texts are unfinished." in explorer._repr_html_()


EDITS_OF_OTHERS = [
    {"do": "pin", "module": 1},
    {"do": "rename", "module": 0, "name": "mine"},
    {"do": "rename", "module": 1, "name": "another"},
    {"do": "merge", "modules": [1, 2]},
    {"do": "split", "module": 1, "n": 2},
    {"do": "undo"},  # there is none: refused
    {"do": "ask", "question": {"kind": "x"}},
]


@pytest.mark.parametrize("edit", EDITS_OF_OTHERS, ids=str)
def test_an_edit_of_other_modules_leaves_a_run_going(widget, explorer, played, edit):
    async def scene():
        says(widget, do="ask", question={"chosen": [0], "control": 7})
        await asyncio.sleep(0)
        assert says(widget, **edit)["total"] > 1

    played(scene)
    assert widget.status["said"] == "Done."
    assert explorer.outcome.question.control == 7
    assert widget.state["outcome"]["is_current"]


def test_an_edit_of_the_questions_units_asks_it_anew(widget, explorer, played):
    numbers = []

    async def scene():
        says(widget, do="ask", question={"chosen": [0], "control": 7})
        await asyncio.sleep(0)
        says(widget, do="keep_core", module=0, n=2)
        numbers.append(len(widget._tasks))

    played(scene)
    assert numbers == [2]
    assert explorer.outcome.n_units == explorer.modules[0].n_units == 2
    assert widget.state["outcome"]["is_current"]


def test_an_emptied_prompt_ends_a_run(widget, explorer, played):
    async def scene():
        says(widget, do="ask", question={"chosen": [1]})
        await asyncio.sleep(0)
        assert says(widget, do="ask", question={"prompt": ""})["total"] == 0

    played(scene)
    assert explorer.outcome.question.chosen == (0,)
    assert widget.state["outcome"]["note"].startswith("An earlier result")


@pytest.mark.parametrize("n_steps", [0, 1, 3])
def test_a_call_from_python_replaces_a_run_of_the_page(widget, explorer, played, n_steps):
    async def scene():
        says(widget, do="ask", question={"chosen": [1], "n_new_tokens": 20})
        for _ in range(n_steps):
            await asyncio.sleep(0.002)
        assert explorer.run(chosen=[2], n_new_tokens=0).question.chosen == (2,)
        assert widget.status["said"] == "Done."

    played(scene)
    assert (widget.status["said"], widget.status["total"]) == ("Done.", 0)
    assert explorer.outcome.question.chosen == (2,)
    assert widget.state["outcome"]["n_units"] == explorer.modules[2].n_units


def test_an_error_stays_until_the_next_question(widget, explorer, played):
    seen = []

    async def scene():
        says(widget, do="ask", question={"chosen": [1]})
        await asyncio.sleep(0)
        says(widget, do="rename", module=0, name="")
        widget.observe(lambda change: seen.append(change["new"]["error"]), "status")
        says(widget, do="pin", module=0)

    played(scene)
    assert widget.status["said"] == "Done."
    assert len(seen) > 2
    assert all(error.startswith("A module's name should have") for error in seen)
    assert says(widget, do="ask", question={"chosen": [2]})["error"] == ""
    error = says(widget, do="ask", question={"kind": "patch", "other_prompt": "the cat"})["error"]
    assert error.startswith("The other prompt should have as many tokens")
    assert widget.state["outcome"]["note"].startswith("An earlier result")
    assert widget.status["total"] == 0
