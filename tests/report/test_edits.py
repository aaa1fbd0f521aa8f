"""Edits of a module set by hand, and what is asked of it: no model runs."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

import tl_modules as tlm
from tl_modules.report.explorer.edits import merged, moved, renamed, split
from tl_modules.report.explorer.question import Question
from tl_modules.report.explorer.session import Session


@pytest.fixture(scope="module")
def made():
    """Four modules of five units each in two layers; module 0's first unit fits it best."""
    return tlm.ModuleSet(
        units=tlm.Units.whole(("blocks.0.hook", "blocks.1.hook"), (0, 1), (10, 10)),
        samples=pd.DataFrame({"prompt": list("abcdefgh"), "category": list("xxyyzzxx")}),
        unit_labels=np.repeat([0, 1, 2, 3], 5),
        sample_labels=np.repeat([0, 1, 2, 3], 2),
        n_modules=4,
        objective=tlm.modules.Objective(1.0, 2.0, 3.0),
        sample_scores=np.arange(8.0),
        unit_scores=np.tile(np.arange(5.0, 0, -1), 4),
        unit_runners_up=np.tile([3], 20),
        verdicts=("selective", None, "not beyond its controls", "selective"),
        shared_by_all=(False, True, False, False),
    )


def sizes(modules):
    return [module.n_units for module in modules]


def test_merging_joins_units_and_samples_and_moves_later_numbers_up(made):
    edit = merged(made, [2, 1])
    assert sizes(edit.modules) == [5, 10, 5]
    assert edit.target == (0, 1, 1, 2)
    assert edit.modules.sample_labels.tolist() == [0, 0, 1, 1, 1, 1, 2, 2]
    assert edit.modules.verdicts == ("selective", None, "selective")
    assert edit.modules.shared_by_all == (False, False, False)
    assert edit.line == "merged module 1 (shared by all) and module 2 (z) into module 1"


def test_what_a_merge_leaves_unknown_is_missing_and_the_rest_is_kept(made, tmp_path):
    found = merged(made, [0, 3]).modules
    assert np.isnan([found.objective.L, *found.sample_scores[[0, 1, 6, 7]]]).all()
    assert found.sample_scores[2:6].tolist() == [2, 3, 4, 5]
    assert found.unit_scores is None
    found.save(tmp_path / "edited.safetensors")
    again = tlm.ModuleSet.load(tmp_path / "edited.safetensors")
    assert np.isnan(again.objective.L)
    assert sizes(again) == sizes(found) == [10, 5, 5]


@pytest.mark.parametrize("numbers", [[0], [0, 0], [0, 1, 2, 3], [0, 9]])
def test_merges_that_cannot_be_are_refused(made, numbers):
    with pytest.raises(tlm.ModulesError):
        merged(made, numbers)


def test_a_split_makes_the_last_module_of_the_chosen_units(made):
    edit = split(made, 0, np.array([1, 3]))
    assert sizes(edit.modules) == [3, 5, 5, 5, 2]
    assert edit.modules[4].category == "x"
    assert len(edit.modules[4].samples) == 0
    assert np.isnan(edit.modules.unit_scores).tolist() == [k in (1, 3) for k in range(20)]
    assert edit.modules.verdicts[0] is edit.modules.verdicts[4] is None


@pytest.mark.parametrize("units", [[], [0, 1, 2, 3, 4], [0, 5]])
def test_splits_that_leave_a_side_empty_or_take_others_units_are_refused(made, units):
    with pytest.raises(tlm.ModulesError):
        split(made, 0, np.array(units, dtype=int))


def test_units_move_between_modules_and_out_of_them(made):
    there = moved(made, np.array([0, 7]), 3)
    assert sizes(there.modules) == [4, 4, 5, 7]
    assert there.modules.verdicts == (None, None, "not beyond its controls", None)
    assert (
        there.line == "moved 2 units from module 0 (x) and module 1 (shared by all) to module 3 (x)"
    )
    out = moved(there.modules, np.array([0]), None)
    assert sizes(out.modules) == [4, 4, 5, 6]
    assert len(out.modules.background) == 1
    with pytest.raises(tlm.ModulesError, match="no unit to move"):
        moved(made, np.array([0]), 0)


def test_shared_units_are_not_moved_into_a_module(made):
    labels = made.unit_labels.copy()
    labels[0] = -1
    aside = replace(made, unit_labels=labels, is_shared=np.arange(20) == 0)
    with pytest.raises(tlm.ModulesError, match="all modules share"):
        moved(aside, np.array([0]), 1)


def test_a_name_is_the_topics_label_and_leaves_the_category(made, tmp_path):
    found = renamed(made, 1, "  sums ").modules
    assert found[1].title == "sums"
    assert found.shared_by_all == made.shared_by_all  # a finding, which a name does not change
    found.save(tmp_path / "named.safetensors")
    assert tlm.ModuleSet.load(tmp_path / "named.safetensors")[1].title == "sums"
    assert moved(found, np.array([5]), 0).modules[1].title == "sums"
    assert found[1].category == "y"
    assert found["sums"].label == 1
    assert found.describe()["label"].tolist()[0] == "x"
    for name in ("", "x", "a" * 201):
        with pytest.raises(tlm.ModulesError):
            renamed(made, 1, name)


def test_a_topic_keeps_what_an_edit_leaves_true(made):
    named = renamed(renamed(made, 1, "sums").modules, 2, "french").modules
    topics = tuple(replace(topic, chance_z=1.0) for topic in named.topics)
    found = merged(replace(named, topics=topics), [1, 2]).modules
    assert [topic.label for topic in found.topics] == ["x", "sums + french", "x (3)"]
    assert [topic.chance_z for topic in found.topics] == [1.0, None, 1.0]
    assert found.topics[1].prompts == ("c", "d", "e", "f")
    assert "edited by hand" in found.topics[1].notes[0]


def test_an_edited_topic_has_a_label_that_no_other_topic_has(made):
    named = renamed(renamed(made, 3, "x + y").modules, 2, "x (0)").modules
    both = merged(named, [0, 1]).modules
    assert [topic.label for topic in both.topics] == ["x + y (0)", "x (0)", "x + y"]
    halves = split(named, 0, np.array([1])).modules
    assert [topic.label for topic in halves.topics] == ["x", "y", "x (0)", "x + y", "x (4)"]


def scored(title):
    return tlm.modules.ScoredLabels(title, (), None, 4, 2)


def test_what_was_said_of_all_modules_goes_with_an_edit_and_scored_labels_of_the_rest_stay(made):
    labels = tuple(map(scored, "abcd"))
    told = replace(made, verdict_sentence="Two are selective.", scored_labels=labels)
    for edit in (
        merged(told, [0, 2]),
        split(told, 0, np.array([1])),
        moved(told, np.array([0]), None),
    ):
        assert edit.modules.verdict_sentence is None
        assert edit.modules.scored_labels[edit.target[1]] is labels[1]
        assert edit.modules.scored_labels[0] is None
        assert edit.modules.scored_labels[edit.target[3]] is labels[3]
    found = renamed(told, 0, "mine").modules
    assert [module.title for module in found] == ["mine", "shared by all", "c", "d"]
    assert found.verdict_sentence == "Two are selective."
    assert found.scored_labels == (None, *labels[1:])


@pytest.fixture
def session(made):
    return Session(made, Question(prompt="a"))


def test_steps_are_told_and_taken_back(session, made):
    session.ask(chosen=[0, 3])
    session.pin(3)
    session.merge([0, 1])
    session.rename(0, "both")
    assert session.pinned == (2,)
    assert session.question.chosen == (0, 2)
    assert len(session.history) == 2
    session.undo()
    session.undo()
    assert session.modules is made
    assert (session.pinned, session.question.chosen, session.history) == ((3,), (0, 3), ())
    with pytest.raises(tlm.ModulesError, match="no edit to take back"):
        session.undo()


def test_taking_an_edit_back_leaves_what_was_chosen_and_pinned_since(session):
    session.rename(0, "mine")
    session.pin(2)
    session.ask(chosen=[1, 2])
    session.undo()
    assert (session.pinned, session.question.chosen) == ((2,), (1, 2))
    session.merge([0, 1])
    session.pin(0)
    session.ask(chosen=[0, 2])
    session.undo()
    assert (session.pinned, session.question.chosen) == ((0, 1, 2), (0, 1, 3))
    session.ask(chosen=[3])
    session.split(0, n=2)
    session.ask(chosen=[4])
    session.undo()
    assert session.question.chosen == (3,)  # the module that was split off is gone


def test_a_core_keeps_its_size_unless_its_module_grows_by_a_merge(session):
    session.ask(chosen=[0], core_size=2)
    session.merge([2, 3])
    session.split(1, n=2)
    assert session.question.core_size == 2
    session.ask(core_size=3)
    session.undo()
    assert session.question.core_size == 3
    session.merge([0, 1])
    assert session.question.core_size is None
    session.undo()
    assert session.question.core_size == 3


def test_taking_an_edit_back_gives_no_module_the_core_of_another(session):
    for size in (None, 3):
        session.ask(chosen=[0], core_size=size)
        session.split(0, n=3)
        session.ask(chosen=[4], core_size=1)
        session.undo()  # module 4 is gone
        assert (session.question.chosen, session.question.core_size) == ((0,), size)
        session.merge([0, 1])
        session.ask(core_size=2)
        session.undo()
        assert (session.question.chosen, session.question.core_size) == ((0,), size)


def test_an_answer_is_of_units_whatever_their_modules_are_called(session):
    session.ask(chosen=[0, 3], factor=2.0)
    first = session.asked()
    assert first.sentence() == (
        "Ablated to the mean: module 0 (x), module 3 (x), beside control 0. Prompt: “a”."
    )
    session.merge([1, 2])
    session.rename(2, "last")
    session.ask(factor=3.0, other_prompt="b")  # an ablation uses neither
    assert session.asked().is_like(first)
    for change in ({"kind": "scale"}, {"control": 1}, {"prompt": "b"}, {"n_new_tokens": 3}):
        session.ask(**change)
        assert not session.asked().is_like(first)
        session.ask(kind="ablate", control=0, prompt="a", n_new_tokens=0)
        assert session.asked().is_like(first)
    session.move([5], 0)
    assert not session.asked().is_like(first)
    session.ask(chosen=[0], core_size=2, kind="scale")
    assert session.asked().sentence() == (
        "Scaled by 3: the first 2 units of module 0 (x), beside control 0. Prompt: “a”."
    )


def test_the_core_is_the_first_units_of_the_ranking(session):
    session.ask(core_size=2)
    assert session.changed_units().tolist() == [0, 1]
    session.ranking = np.arange(20.0)
    assert session.changed_units().tolist() == [3, 4]
    session.ask(core_size=5)
    assert session.question.core_size is None
    session.ask(chosen=[0, 1], core_size=2)
    assert session.changed_units().tolist() == list(range(10))
    session.keep_core(0, 2)
    assert sizes(session.modules) == [2, 5, 5, 5]
    assert session.modules.unit_labels[:5].tolist() == [-1, -1, -1, 0, 0]
    assert session.history == ("reduced module 0 to its first 2 units",)


def test_a_module_splits_by_its_ranking_or_by_layer(session):
    session.split(1, n=3)
    assert sizes(session.modules) == [5, 3, 5, 5, 2]
    session.merge([1, 2])  # now in both layers
    session.split(1, layer=0)
    assert sizes(session.modules) == [5, 3, 5, 2, 5]
    assert session.modules[4].layers == [1]
    with pytest.raises(tlm.ModulesError, match="either n or layer"):
        session.split(0)


def test_units_are_named_by_layer_and_number(session):
    assert session.positions_of(" 0:3, 1:4;1:0 ") == [3, 14, 10]
    assert session.positions_of("") == []
    for text in ("3", "0:3:1", "0:a", "0:99", "7:1", f"0:{10**30}", "0:" + "9" * 5000):
        with pytest.raises(tlm.ModulesError):
            session.positions_of(text)


@pytest.mark.parametrize(
    "change",
    [
        {"chosen": [9]},
        {"kind": "steer"},
        {"factor": float("nan")},
        {"factor": True},
        {"factor": 1000},
        {"n_new_tokens": 10_000},
        {"n_new_tokens": -1},
        {"core_size": 0},
        {"n_new_tokens": 10**5000},
        {"control": 2**32},
        {"control": -(10**5000)},
        {"chosen": [10**5000]},
        {"factor": 10**5000},
        {"control": -1},
        {"prompt": 7},
        {"oops": 1},
    ],
)
def test_questions_that_cannot_be_are_refused_and_leave_the_last_one(session, change):
    before = session.question
    with pytest.raises(tlm.ModulesError):
        session.ask(**change)
    assert session.question == before


def test_a_ranking_is_of_every_unit(made):
    with pytest.raises(tlm.ModulesError, match="one score per unit of the site"):
        Session(made, Question(), np.zeros(3))
