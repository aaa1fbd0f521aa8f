"""Under its null, every kind of p-value in the package is at most 0.05 in about 5 % of cases."""

import pytest

from benchmarks.calibration.kinds import SIMULATIONS
from benchmarks.calibration.levels import Level
from tests.conftest import long_once

CHEAP = {"signs": 4000, "rule": 10_000, "selectivities": 500, "thoughts": 400, "covered": 300}
"""Simulations that need no model: as many as show the share itself."""

WITH_A_MODEL = {
    "magnitude": 100,
    "keep_only": 100,
    "patch": 100,
    "sequential": 60,
    "dissociation": 60,
    "matches": 60,
    "nested": 60,
}
"""Simulations that run a model, or many partitions. So few show gross errors alone: with 100
p-values the share's interval is 0.02 to 0.11. ``python -m benchmarks.calibration`` runs more, and
further kinds that take too long for a test."""


@pytest.mark.slow
@pytest.mark.parametrize("name", CHEAP)
def test_five_tests_of_a_hundred_pass_under_the_null(name):
    for kind, p_values in SIMULATIONS[name].run(CHEAP[name], 0).items():
        level = Level.of(p_values)
        assert 0.03 <= level.share <= 0.07, (kind, level)


@long_once
@pytest.mark.slow
@pytest.mark.parametrize("name", WITH_A_MODEL)
def test_the_interval_of_those_that_pass_holds_five_of_a_hundred(name):
    for kind, p_values in SIMULATIONS[name].run(WITH_A_MODEL[name], 0).items():
        level = Level.of(p_values)
        assert level.low <= 0.07, (kind, level)
        assert level.high >= 0.03, (kind, level)
