import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tl_modules as tlm


def test_a_case_worked_by_hand():
    matrix = np.array([[1.0, 2.0, 9.0], [9.0, 9.0, 4.0]])
    found = tlm.objective(matrix, np.array([0, 1]), np.array([0, 0, 1]), 2)
    # Blocks: 1 + 2 in 1 x 2, and 4 in 1 x 1; harmonic mean of 2 and 1 is 4/3.
    assert found.xi == pytest.approx(7 / 3)
    assert pytest.approx(4 / 3) == found.B
    assert pytest.approx(28 / 9) == found.L


def test_an_empty_block_makes_the_objective_zero():
    matrix = np.ones((2, 3))
    samples, units = np.array([0, 1]), np.array([0, 0, 0])
    assert tlm.objective(matrix, samples, units, 2).L == 0


@given(seed=st.integers(0, 2**32 - 1))
def test_order_of_rows_columns_and_labels_does_not_matter(seed):
    generator = np.random.default_rng(seed)
    matrix = generator.normal(size=(6, 8))
    samples, units = generator.integers(0, 3, 6), generator.integers(0, 3, 8)
    before = tlm.objective(matrix, samples, units, 3)
    rows, columns = generator.permutation(6), generator.permutation(8)
    names = generator.permutation(3)
    after = tlm.objective(
        matrix[np.ix_(rows, columns)], names[samples[rows]], names[units[columns]], 3
    )
    assert pytest.approx(before.L, rel=1e-9, abs=1e-12) == after.L
    assert pytest.approx(before.B) == after.B


def test_shapes_and_labels_that_do_not_fit_are_refused():
    with pytest.raises(tlm.ModulesError, match=r"matrix should have shape \(2, 2\)"):
        tlm.objective(np.ones((2, 3)), np.array([0, 1]), np.array([0, 1]), 2)
    with pytest.raises(tlm.ModulesError, match=r"sample_labels should lie in 0\.\.1"):
        tlm.objective(np.ones((2, 2)), np.array([0, 2]), np.array([0, 1]), 2)
