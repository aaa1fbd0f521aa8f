import pytest

import tl_modules as tlm
from tl_modules.causal.core_sizes import core_sizes, rungs


def test_the_usual_ladder_is_of_shares_of_the_site():
    assert core_sizes(None, 46_080) == [46, 92, 230, 461, 922, 2304, 4608, 9216, 23_040, 46_080]


def test_numbers_and_shares_are_sorted_and_each_is_once():
    assert core_sizes([0.5, 5, 3, 0.0001], 10) == [1, 3, 5]


@pytest.mark.parametrize("size", [0, -1, 0.0, 1.5, True, float("nan")])
def test_a_size_that_is_neither_is_refused(size):
    with pytest.raises(tlm.ModulesError, match="a share above 0 and at most 1; got"):
        core_sizes([10, size], 100)
    with pytest.raises(tlm.ModulesError, match="at least one size"):
        core_sizes([], 100)


def test_a_module_s_ladder_ends_with_the_whole_module():
    assert rungs([10, 100, 1000], 80) == [10, 80]
    assert rungs([10, 80], 80) == [10, 80]
    assert rungs([100], 80) == [80]
