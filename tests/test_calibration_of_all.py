"""Under its null, every kind of p-value in the package is at most 0.05 in about 5 % of cases."""

import pytest

from benchmarks.calibration.kinds import SIMULATIONS
from benchmarks.calibration.levels import Level
from tests.conftest import long_once

N = {
    "magnitude": 300,
    "keep_only": 300,
    "patch": 300,
    "sequential": 150,
    "dissociation": 200,
    "leace": 150,
    "matches": 150,
    "nested": 150,
    "covered": 300,
    "signs": 4000,
    "selectivities": 500,
    "rule": 10_000,
    "thoughts": 400,
}
"""Simulations of each. The benchmark runs more, and those that take too long for a test."""


@long_once
@pytest.mark.slow
@pytest.mark.parametrize("name", N)
def test_five_tests_of_a_hundred_pass_under_the_null(name):
    for kind, p_values in SIMULATIONS[name].run(N[name], 0).items():
        level = Level.of(p_values)
        assert 0.03 <= level.share <= 0.07, (kind, level)
