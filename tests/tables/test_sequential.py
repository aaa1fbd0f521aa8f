"""P-values under a rule that stops early: exact under the null, and few controls."""

from itertools import product

import numpy as np
import pytest

from tl_modules.tables.sequential import ENOUGH, StoppingRule


def exceedances(numbers, n_controls):
    """A run of controls of which those with these numbers (from 1) exceed the module."""
    exceeds = np.zeros(n_controls, dtype=bool)
    exceeds[np.array(numbers, dtype=int) - 1] = True
    return exceeds


def test_the_rule_lets_one_of_several_true_effects_pass_holms_correction():
    for n_tests in (1, 2, 7, 20, 100):
        rule = StoppingRule.for_tests(n_tests)
        exceeds = np.zeros(rule.limit, dtype=bool)
        assert rule.n_used(exceeds) == rule.early
        assert n_tests * rule.p_value(exceeds) <= 0.05 / 2 + 1e-12
        assert rule.limit >= 999


def test_ten_exceedances_stop_it_as_besag_and_clifford_say():
    rule = StoppingRule(early=279, limit=999)
    exceeds = exceedances([2, 3, 5, 8, 13, 21, 34, 55, 89, 144], 160)
    assert rule.n_used(exceeds[:143]) is None
    assert rule.n_used(exceeds) == 144
    assert rule.p_value(exceeds) == ENOUGH / 144
    # What comes after the stop does not count.
    exceeds[150:] = True
    assert rule.p_value(exceeds) == ENOUGH / 144


def test_a_test_between_the_two_goes_on_to_the_limit():
    rule = StoppingRule(early=279, limit=999)
    exceeds = exceedances([100, 500, 700], 999)
    assert rule.n_used(exceeds[:998]) is None
    assert rule.n_used(exceeds) == 999
    # 4 of 1,000 with a fixed number; a little more for what the early stop lets pass.
    assert 4 / 1000 < rule.p_value(exceeds) < 4 / 1000 + 1 / 280
    assert 7 * rule.p_value(exceeds) <= 0.05


def test_no_more_controls_to_draw_ends_a_test():
    rule = StoppingRule(early=39, limit=999)
    assert rule.n_used(exceedances([3], 29)) is None
    assert rule.p_value(exceedances([3], 29)) == 2 / 30
    assert np.isnan(rule.p_value(np.zeros(0, dtype=bool)))


def test_a_p_value_is_the_probability_of_an_end_that_says_as_much(monkeypatch):
    """Enumerates the ranks of the module among 8 runs, and what the rule makes of each order."""
    monkeypatch.setattr("tl_modules.tables.sequential.ENOUGH", 3)
    rule = StoppingRule(early=4, limit=7)
    probability = {}
    for exceeds in product([False, True], repeat=7):
        n_exceeding = sum(exceeds)
        # Of equally many exceedances every order is equally likely, and every number is.
        orders = np.prod(np.arange(1, n_exceeding + 1)) / np.prod(np.arange(8 - n_exceeding, 8))
        p_value = rule.p_value(np.array(exceeds))
        probability[p_value] = probability.get(p_value, 0) + orders / 8
    assert sum(probability.values()) == pytest.approx(1)
    assert len(probability) > 5
    total = 0
    for p_value in sorted(probability):
        total += probability[p_value]
        assert p_value == pytest.approx(total)


def test_few_controls_are_needed_under_the_null():
    rule, generator = StoppingRule.for_tests(7), np.random.default_rng(0)
    exceeds = generator.random((400, 999)) < generator.random((400, 1))
    used = [rule.n_used(one) for one in exceeds]
    assert np.mean(used) < 100
    assert np.median(used) < 30
