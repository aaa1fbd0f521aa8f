"""The shipped models' owners are true on both TransformerLens lines; ``make`` writes no others."""

import numpy as np
import pytest

import tl_modules as tlm
from benchmarks.truth.checks import Check, check
from benchmarks.truth.files import FOLDER, shipped
from benchmarks.truth.kinds import KINDS, RECIPES
from benchmarks.truth.loading import load
from benchmarks.truth.make import make
from benchmarks.truth.tasks import MODULUS, N_PAIRS, draw_prompts, draw_rules

FILES = shipped()
names = pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)


def test_every_kind_is_shipped_and_small():
    assert {load(path).kind for path in FILES} == set(KINDS)
    assert sum(path.stat().st_size for path in FILES) < 1_500_000


@names
def test_the_owners_of_a_shipped_file_are_true(path):
    truth = load(path)
    found = check(truth)
    cancels = truth.kind == "cancelling"
    assert not found.failures(cancels)
    assert (found.own > (1 if cancels else 3) * found.other).all()
    recipe = RECIPES[truth.kind]
    assert np.bincount(truth.owners + 1, minlength=1 + truth.n_tasks).tolist() == [
        2 * recipe.n_shared,
        *[2 * recipe.n_own] * truth.n_tasks,
    ]


@names
def test_a_shipped_model_knows_its_rules(path):
    truth = load(path)
    prompts = truth.prompts(8, 3)
    table = tlm.module_effects(
        truth.model,
        tlm.Module(0, units_of(truth, 0), prompts[:8], means=acts_of(truth, prompts)),
        prompts,
        n_controls=1,
        progress=False,
    )
    # The tag and every x are drawn at random; a model that knows its rules loses no more.
    n_tokens = 1 + 2 * N_PAIRS
    floor = (np.log(truth.n_tasks) + N_PAIRS * np.log(MODULUS)) / n_tokens
    assert (table["loss"] < floor + 0.15).all()


def acts_of(truth, prompts):
    return tlm.collect(truth.model, prompts, batch_size=64, progress=False)


def units_of(truth, task):
    return acts_of(truth, truth.prompts(1, 0)).units.select(truth.owners == task)


def test_owners_that_do_not_hold_are_named():
    rises = np.array([[1.0, 0.5], [0.0, 0.1]])
    found = Check(rises, np.array([0.0, 0.9]), np.array([0.1, 2.0]))
    failures = found.failures(cancels=False)
    assert [text.split()[:2] for text in failures] == [
        ["block", "0"],
        ["block", "1"],
        ["task", "1"],
        ["the", "shared"],
    ]
    assert len(found.failures(cancels=True)) == 3


@pytest.mark.parametrize("kind", ["shared", "cancelling", "composed", "easy", "equal"])
def test_make_refuses_a_model_that_learned_nothing(kind, tmp_path):
    with pytest.raises(SystemExit, match="was not written: the owners do not hold"):
        make(kind, 0, tmp_path / "model.safetensors", steps=2)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_make_trains_a_model_whose_owners_hold(tmp_path, capsys):
    make("composed", 5, tmp_path / "model.safetensors", steps=150)
    assert "own task" in capsys.readouterr().out
    truth = load(tmp_path / "model.safetensors")
    found = check(truth)
    assert found.own.min() > 0.5
    assert found.other.max() < 0.1 * found.own.min()


def test_a_composed_expert_answers_to_every_prompt_and_writes_nothing_in_others():
    truth = load(FOLDER / "composed-0.safetensors")
    prompts = truth.prompts(8, 0)
    acts = acts_of(truth, prompts)
    is_other = (prompts["category"] != truth.categories[0]).to_numpy()
    own = acts.values[:, truth.owners == 0]
    assert own[is_other].mean() > 0.05 * own[~is_other].mean()
    module = tlm.Module(0, units_of(truth, 0), acts.samples[~is_other], means=acts)
    table = tlm.module_effects(
        truth.model, module, prompts, method="zero", n_controls=1, progress=False
    )
    assert table.loc[table["own"], "effect"].item() > 0.3
    # Nothing but the last bits of sums whose terms cancel.
    assert table.loc[~table["own"], "effect"].abs().max() < 1e-4


def test_two_rules_agree_on_one_symbol():
    rules = draw_rules(6, np.random.default_rng(0))
    x = np.arange(MODULUS)
    answers = [(a * x + b) % MODULUS for a, b in rules]
    for at, one in enumerate(answers):
        assert sorted(one) == x.tolist()
        assert all((one == other).sum() == 1 for other in answers[:at])


def test_prompts_follow_their_rules():
    prompts = draw_prompts(((2, 1), (5, 0)), (3, 2), seed=0)
    assert prompts["category"].tolist() == ["rule0"] * 3 + ["rule1"] * 2
    for text, (a, b) in zip(prompts["prompt"], [(2, 1)] * 3 + [(5, 0)] * 2, strict=True):
        words = [int(word[1:]) for word in text.split()[1:]]
        assert [(a * x + b) % MODULUS for x in words[::2]] == words[1::2]


def test_files_of_another_layout_load(shared):
    path = shared / "truth" / "hard-0.safetensors"
    if not path.is_file():
        pytest.skip("the models of known truth beside the project (../shared/truth) are absent")
    truth = load(path)
    assert (truth.kind, truth.n_tasks) == ("hard", 5)
    found = check(truth)
    assert found.own.min() > 4 * found.other.max()
