"""Tables of planted rises, worked out by hand."""

import numpy as np
import pytest

from tl_modules.tables.bootstrap import N_RESAMPLES, bootstrap_indices
from tl_modules.training.loss_changes import increases_table

OF_FORGET = np.arange(9) < 5
BEFORE = np.arange(9.0)
BEST = np.array([2.0, 3.0, 2.5, 4.0, 3.5, 0.1, 0.3, 0.0, 0.2])
"""It forgets more than any control, and loses less of what is retained."""
WORST = np.where(OF_FORGET, 0.2, 3.0)
CONTROLS = np.stack([np.where(OF_FORGET, 1.0, 0.5 + k) for k in range(3)])


@pytest.mark.parametrize(("module", "p_value"), [(BEST, 0.25), (WORST, 1.0)])
def test_who_forgets_most_and_loses_least_has_the_least_p_values(module, p_value):
    table = increases_table(BEFORE, np.stack([module, *CONTROLS]), OF_FORGET, 0)
    assert table["p_value"].tolist() == [p_value] * 3
    assert table["control_mean"].tolist() == [1, 1.5, -0.5]
    assert table["loss_before"].tolist() == [2, 6.5, -4.5]


def test_losses_that_no_training_changes_have_a_p_value_of_one():
    runs = np.where(OF_FORGET, np.arange(4.0)[::-1, None], 1e-7 * np.arange(4.0)[:, None])
    table = increases_table(BEFORE, runs, OF_FORGET, 0).set_index("set")
    assert table["p_value"].tolist() == [0.25, 1, 0.25]


def test_intervals_are_those_of_prompts_resampled_on_each_side():
    table = increases_table(BEFORE, np.stack([BEST, *CONTROLS]), OF_FORGET, 4)
    drawn = BEST[bootstrap_indices(OF_FORGET, N_RESAMPLES, 4)]
    forget, retain = drawn[:, :5].mean(axis=1), drawn[:, 5:].mean(axis=1)
    expected = np.quantile([forget, retain, forget - retain], [0.025, 0.975], axis=1)
    np.testing.assert_allclose(table[["ci_low", "ci_high"]], expected.T)
    np.testing.assert_allclose(table["effect"], [3, 0.15, 2.85])
