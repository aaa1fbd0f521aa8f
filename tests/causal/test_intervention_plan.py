"""Plans of interventions: by hand on the toy, and against the whole graph on a random model."""

import numpy as np
import pytest
import torch

import tl_modules as tlm
from tests.toy import Toy, toy_modules
from tl_modules.causal.target_guesses import parsed_guess, question_about
from tl_modules.interventions.strata import Strata


def plan(model, pair, modules, budget, **options):
    options = {"n_prompts": 2, "n_controls": 0, "progress": False} | options
    return tlm.plan_interventions(model, *pair, modules, budget=budget, **options)


@pytest.fixture(scope="module")
def pair(model):
    generator = torch.Generator().manual_seed(0)
    return [
        torch.randint(3, 40, (5, 6), generator=generator).to(model.cfg.device) for _ in range(2)
    ]


CLEAN, CORRUPTED = torch.tensor([[1], [3], [2], [5]]), torch.tensor([[2], [1], [4], [1]])
"""Four pairs of one token for the toy. All of a unit's changes are in proportion to the token's."""


@pytest.fixture(scope="module")
def by_hand():
    return plan(Toy(), (CLEAN, CORRUPTED), toy_modules(), 4, n_controls=1)


def test_shares_are_by_hand(by_hand):
    # With e by 1: module 0 patched (a and d), c moves by 1 of its 7 and b by none of its 2, a share
    # of 7 / 53. Module 1 patched, neither a nor d moves.
    edges = by_hand.edges.set_index(["source", "target"])
    assert edges.loc[(0, 1), "effect"] == pytest.approx(7 / 53, rel=1e-5)
    assert edges.loc[(1, 0), "effect"] == pytest.approx(0, abs=1e-6)
    assert edges["n_prompts"].tolist() == [4, 4]
    assert by_hand.n_runs == by_hand.n_runs_of_graph == 2 * 4 * 2


def test_controls_are_random_units_by_hand(by_hand):
    # b patched moves c by 6 of its 7, a by 1. How much a pair counts is its squared change.
    strata = Strata.by_layer(toy_modules().units)
    units, found = toy_modules()[0].units, 0.0
    changes = ((CLEAN - CORRUPTED)[:, 0] ** 2).numpy()
    order = np.random.default_rng([0, 0]).permutation(4)
    own = by_hand.order[by_hand.order["module"] == 0]
    for prompts, step in zip((order[:2], order[2:]), own["step"], strict=True):
        generator = np.random.default_rng([0, 0, step])
        drawn = strata.draw(units, generator).flat().tolist()
        found += changes[prompts].sum() * (42 if 1 in drawn else 7) / 53
    row = by_hand.edges.set_index(["source", "target"]).loc[(0, 1)]
    assert row["control_mean"] == pytest.approx(found / changes.sum(), rel=1e-5)
    assert row["excess"] == pytest.approx(row["effect"] - row["control_mean"], abs=1e-6)
    assert row["ci_low"] <= row["excess"] <= row["ci_high"]


@pytest.mark.parametrize(("least", "expected"), [(0.1, [1, 0]), (0.2, [0, 0])])
def test_an_edge_exceeds_the_least_effect(least, expected):
    found = plan(Toy(), (CLEAN, CORRUPTED), toy_modules(), 4, least_effect=least)
    assert found.edges["probability"].tolist() == pytest.approx(expected, abs=1e-6)
    assert found.edges["control_mean"].isna().all()
    assert found.matrix("probability").loc[0, 1] == pytest.approx(expected[0], abs=1e-6)


@pytest.mark.parametrize("direct", [False, True])
@pytest.mark.parametrize("strategy", ["information", "random"])
def test_patching_all_on_all_pairs_gives_the_graph(model, pair, modules, direct, strategy):
    found = plan(model, pair, modules, 9, direct=direct, strategy=strategy)
    graph = tlm.module_graph(
        model,
        *pair,
        lambda logits: logits[:, -1, 5],
        modules,
        direct=direct,
        n_controls=0,
        progress=False,
    )
    np.testing.assert_allclose(found.edges["effect"], graph.edges["effect"], rtol=1e-4, atol=1e-5)
    assert found.edges["n_prompts"].eq(5).all()
    assert sorted(found.order["n_prompts"]) == [1, 1, 1] + [2] * 6
    assert found.n_runs == found.n_runs_of_graph == 15


def test_a_part_of_the_budget_leaves_modules_out(model, pair, modules):
    found = plan(model, pair, modules, 1, n_controls=2)
    (source,) = found.order["module"]
    unseen = found.edges["source"] != source
    assert found.edges.loc[unseen, "effect"].isna().all()
    assert found.edges.loc[unseen, "probability"].eq(0.5).all()
    assert found.edges.loc[~unseen, "ci_low"].notna().all()
    assert (found.n_runs, found.n_runs_of_graph) == (6, 45)
    assert "1 interventions on 1 of 3 modules, 6 runs where the whole graph takes 45" in repr(found)


@pytest.mark.parametrize("padded", [slice(4, 6), slice(0, 2)])
def test_padding_counts_for_nothing(model, pair, modules, padded):
    mask = torch.ones_like(pair[0])
    mask[1:3, padded] = 0
    noisy = [tokens.clone() for tokens in pair]
    noisy[0][1, padded] = 7
    one, other = (plan(model, some, modules, 9, attention_mask=mask) for some in (pair, noisy))
    np.testing.assert_allclose(one.edges["effect"], other.edges["effect"], rtol=1e-4, atol=1e-6)


def test_a_guess_is_asked_for_and_followed_first(model, pair, modules, monkeypatch):
    monkeypatch.setattr("tl_modules.causal.edge_planner.RANDOM_SHARE", 0.0)
    asked = []
    found = plan(model, pair, modules, 2, propose=lambda said: asked.append(said) or " 2,\n1 ")
    assert asked == [found.question]
    assert (found.answer, found.guess) == (" 2,\n1 ", (2, 1))
    assert found.order["module"].tolist() == [2, 1]
    assert found.order["chosen_by"].tolist() == ["guess", "guess"]


def test_a_guess_changes_the_order_and_no_estimate(model, pair, modules):
    plain, guided = (
        plan(model, pair, modules, 9, propose=propose) for propose in (None, lambda said: "2, 1")
    )
    assert plain.order["module"].tolist() != guided.order["module"].tolist()
    np.testing.assert_allclose(plain.edges["effect"], guided.edges["effect"], rtol=1e-5, atol=1e-7)
    assert plain.question == guided.question
    assert (plain.answer, plain.guess) == (None, ())


def test_the_question_names_topics_on_one_line_each():
    listed = [
        module.with_category(name)
        for module, name in zip(toy_modules(), ["poems\n9: a trap", "x" * 500], strict=True)
    ]
    lines = question_about(listed).splitlines()
    assert lines[2] == "0: poems 9: a trap; 2 units; mean layer 0.5"
    assert lines[3].startswith("1: xxx")
    assert "…; 2 units" in lines[3]
    assert len(lines[3]) < 120


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        ("", "it returned ''. Cut"),
        ("Module 3, then 0", "it returned 'Module 3, then 0'"),
        ("3; 0", "separated by commas"),
        ("3, -1", "separated by commas"),
        ("1" * 5000, "separated by commas"),
        ("٣", "separated by commas"),  # a digit, but not of ASCII
        (["3"], "it returned list"),
        (None, "it returned None"),
        ("3, 2", "there is no module 2. The question lists"),
        ("3, 0, 3", "named module 3 twice"),
    ],
)
def test_a_malformed_answer_is_refused(answer, problem):
    with pytest.raises(tlm.ModulesError, match=problem):
        parsed_guess(answer, [0, 3])


def test_an_exception_of_propose_says_where_it_was_raised(model, pair, modules):
    def fails(question):
        raise OSError("no network")

    with pytest.raises(OSError, match="no network") as caught:
        plan(model, pair, modules, 1, propose=fails)
    assert "propose raised this" in caught.value.__notes__[0]


def test_a_language_model_is_asked_and_its_prose_is_refused(model, pair, modules):
    asked = []

    def propose(question):
        asked.append(question)
        written = model.generate(
            model.to_tokens("the cat sat"), max_new_tokens=4, do_sample=False, verbose=False
        )
        return model.tokenizer.decode(written[0, 1:].tolist())

    with pytest.raises(tlm.ModulesError, match=r"it returned 'the cat sat .*Cut everything else"):
        plan(model, pair, modules, 1, propose=propose)
    assert "0: " in asked[0]
    found = plan(model, pair, modules, 1, propose=lambda question: f"{len(propose(question)) % 3}")
    assert len(found.guess) == 1


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"budget": 10}, "budget should be at most 9, where every module is patched on every pair"),
        ({"budget": 0}, "budget should be at least 1"),
        ({"n_prompts": 1}, "n_prompts should be at least 2"),
        ({"n_controls": -1}, "n_controls should be at least 0"),
        ({"guess_weight": 1.0}, "guess_weight should be at least 0 and below 1; got 1.0"),
        ({"guess_weight": float("nan")}, "guess_weight should be at least 0"),
        ({"least_effect": 0.0}, "least_effect should be above 0 and finite"),
        ({"strategy": "greedy"}, "strategy should be"),
        ({"strategy": "random", "propose": str}, "takes no guess"),
    ],
)
def test_options_out_of_range_are_refused(model, pair, modules, options, problem):
    with pytest.raises(tlm.ModulesError, match=problem):
        plan(model, pair, modules, **{"budget": 1} | options)


def test_one_pair_is_refused(model, pair, modules):
    with pytest.raises(tlm.ModulesError, match="number of pairs of prompts should be at least 2"):
        plan(model, [tokens[:1] for tokens in pair], modules, 1)
