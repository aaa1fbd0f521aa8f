"""Which source comes next, on numbers worked by hand."""

from math import atan, log2, pi, sqrt, tan

import numpy as np
import pytest

from tl_modules.causal.edge_planner import EdgePlanner

ONES = np.ones((2, 3))
"""How far three modules could move on two prompts."""


def entropy(p):
    return -sum(q * log2(q) for q in (p, 1 - p) if q > 0)


def t_1(x):
    """Student's t with one degree of freedom, which is Cauchy's."""
    return 0.5 + atan(x) / pi


def t_3(x):
    return 0.5 + (x / sqrt(3) / (1 + x * x / 3) + atan(x / sqrt(3))) / pi


@pytest.fixture
def seen():
    """Module 0 moved module 1 by 0.3 and 0.5 of its change, and module 2 by none of it."""
    planner = EdgePlanner(3, n_prompts=2)
    planner.observe(0, np.array([[9.0, 0.3, 0.0], [9.0, 0.5, 0.0]]), ONES)
    return planner


def test_effects_intervals_and_probabilities_are_by_hand(seen):
    assert seen.effects()[0, 1:].tolist() == pytest.approx([0.4, 0.0])
    # s = 0.1 * sqrt(2), so the standard error is 0.1; t(0.975) at one degree is 12.706.
    low, high = (ends[0, 1:].tolist() for ends in seen.intervals())
    assert low == pytest.approx([0.4 - 1.2706, 0.0], abs=1e-4)
    assert high == pytest.approx([0.4 + 1.2706, 0.0], abs=1e-4)
    # 0.4 lies three standard errors above the least effect of 0.1.
    assert seen.probabilities()[0, 1:].tolist() == pytest.approx([t_1(3), 0.0])
    assert np.isnan(seen.effects()[1:]).all()
    assert (seen.probabilities()[1:] == 0.5).all()


def test_an_effect_weighs_each_prompt_by_how_far_the_target_could_move():
    planner = EdgePlanner(2, n_prompts=2)
    planner.observe(0, np.array([[0.0, 1.0], [0.0, 1.0]]), np.array([[1.0, 1.0], [1.0, 3.0]]))
    assert planner.effects()[0, 1] == pytest.approx(2 / 4)
    # Residuals 1 - 0.5 and 1 - 1.5; squared standard error 2 / 1 * 0.5 / 4**2.
    low, _ = planner.intervals()
    assert 0.5 - low[0, 1] == pytest.approx(12.7062 * 0.25, rel=1e-4)


def test_two_interventions_count_as_one_of_all_prompts():
    parts = np.random.default_rng(0).normal(size=(6, 3))
    wholes = np.abs(parts) + 1
    at_once, apart = EdgePlanner(3, n_prompts=3), EdgePlanner(3, n_prompts=3)
    at_once.observe(0, parts, wholes)
    apart.observe(0, parts[:2], wholes[:2])
    apart.observe(0, parts[2:], wholes[2:])
    np.testing.assert_allclose(at_once.probabilities(), apart.probabilities())
    assert apart.n_interventions.tolist() == [2, 0, 0]
    assert apart.n_prompts.tolist() == [6, 0, 0]


def test_the_expected_information_is_by_hand(seen):
    # Two more prompts halve the squared error of 0.01. The mean moves by sqrt(0.005) times one of
    # 16 equally likely quantiles; then there are three degrees of freedom.
    moves = [sqrt(0.005) * tan(pi * ((step + 0.5) / 16 - 0.5)) for step in range(16)]
    then = [entropy(t_3((0.4 + move - 0.1) / sqrt(0.005))) for move in moves]
    gain = entropy(t_1(3)) - sum(then) / 16
    assert gain > 0.05
    # Module 1's edge has that gain; nothing more is to be learned of module 2's.
    only = np.array([True, False, False])
    assert seen.next_source(only).information == pytest.approx(gain / 2)


def test_modules_never_patched_come_first_then_the_least_certain(monkeypatch):
    monkeypatch.setattr("tl_modules.causal.edge_planner.RANDOM_SHARE", 0.0)
    planner = EdgePlanner(3, n_prompts=2)
    clear, close = [[0.9, 0.9, 0.9]] * 2, [[0.05, 0.05, 0.05], [0.2, 0.2, 0.2]]
    order = []
    for _ in range(3):
        choice = planner.next_source()
        assert choice.information == 1
        order.append(choice.source)
        planner.observe(choice.source, np.array(close if choice.source == 1 else clear), ONES)
    assert sorted(order) == [0, 1, 2]
    assert planner.next_source()[:2] == (1, "information")


def test_effects_without_variance_are_certain():
    planner = EdgePlanner(3, n_prompts=2, least_effect=0.5)
    planner.observe(0, np.array([[0.0, 0.5, 0.25]] * 2), ONES)
    assert planner.probabilities()[0, 1:].tolist() == [1, 0]


def test_one_prompt_says_nothing_yet():
    planner = EdgePlanner(2, n_prompts=1)
    planner.observe(0, np.array([[0.0, 0.9]]), np.ones((1, 2)))
    assert planner.probabilities()[0, 1] == 0.5
    assert np.isnan(planner.intervals()[0][0, 1])
    assert planner.next_source(np.array([True, False])).information == 1


def test_a_target_that_does_not_change_between_the_runs_has_no_edge_yet():
    planner = EdgePlanner(2, n_prompts=2)
    planner.observe(0, np.zeros((2, 2)), np.zeros((2, 2)))
    assert np.isnan(planner.effects()[0, 1])
    assert planner.probabilities()[0, 1] == 0.5


def swept(strategy, guess=(), n_modules=6, steps=60, **options):
    """The order of sources where every edge of the first three modules is clear."""
    planner = EdgePlanner(n_modules, n_prompts=4, strategy=strategy, guess=guess, seed=3, **options)
    generator = np.random.default_rng(0)
    chosen = []
    for _ in range(steps):
        choice = planner.next_source()
        noise = 0.01 if choice.source < n_modules // 2 else 0.3
        parts = generator.normal(0.4, noise, size=(4, n_modules))
        planner.observe(choice.source, parts, np.ones((4, n_modules)))
        chosen.append(choice)
    return chosen


def test_random_order_sweeps_all_modules_again_and_again():
    chosen = [choice.source for choice in swept("random")]
    sweeps = [sorted(chosen[start : start + 6]) for start in range(0, 60, 6)]
    assert sweeps == [list(range(6))] * 10
    assert len({tuple(chosen[start : start + 6]) for start in range(0, 60, 6)}) > 1


def test_information_goes_where_edges_are_uncertain():
    chosen = [choice.source for choice in swept("information", steps=24)]
    assert sum(source >= 3 for source in chosen) >= 15
    assert set(chosen) == set(range(6))


def test_a_guess_comes_first_and_is_said_to_have_chosen():
    chosen = swept("information", guess=[4, 2])
    own = [choice for choice in chosen[:4] if choice.chosen_by != "random"]
    assert [choice.source for choice in own[:2]] == [4, 2]
    assert {choice.chosen_by for choice in own[:2]} == {"guess"}


@pytest.mark.parametrize("weight", [0.5, 0.99])
def test_a_misleading_guess_loses_out_to_observations(weight):
    # It names the modules of which nothing remains to be learned.
    chosen = [
        choice.source
        for choice in swept("information", guess=[0, 1, 2], guess_weight=weight, steps=50)
    ]
    assert set(chosen) == set(range(6))
    assert sum(source >= 3 for source in chosen[10:]) > 30


def test_a_guess_changes_no_estimate():
    plain, guided = (EdgePlanner(3, n_prompts=2, guess=guess) for guess in ((), (2, 1)))
    for planner in (plain, guided):
        planner.observe(0, np.array([[9.0, 0.3, 0.0], [9.0, 0.5, 0.0]]), ONES)
    np.testing.assert_array_equal(plain.probabilities(), guided.probabilities())
    np.testing.assert_array_equal(plain.effects(), guided.effects())
