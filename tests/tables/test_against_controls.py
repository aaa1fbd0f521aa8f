import numpy as np
import pytest

from tl_modules.tables.against_controls import control_p_value


def test_p_values_count_the_controls_at_least_as_large():
    controls = np.array([0.0, 1.0, 2.0, 3.0])
    assert control_p_value(4.0, controls) == 1 / 5
    assert control_p_value(2.0, controls) == 3 / 5  # a tie counts against the module
    assert control_p_value(-1.0, controls) == 1.0
    assert np.isnan(control_p_value(1.0, controls[:0]))
    assert np.isnan(control_p_value(float("nan"), controls))


def test_p_values_are_uniform_when_the_module_is_one_of_its_controls():
    generator = np.random.default_rng(0)
    found = [control_p_value(draw[0], draw[1:]) for draw in generator.normal(size=(4000, 20))]
    share = np.mean(np.array(found) <= 0.25)
    assert share == pytest.approx(0.25, abs=0.03)
