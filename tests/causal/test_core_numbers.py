import numpy as np
import pytest

from tl_modules.causal.core_numbers import core_numbers, own_and_others
from tl_modules.tables.bootstrap import bootstrap_indices

CATEGORIES = np.array(["a", "b", "a", "c", "b", "b"], dtype=object)


def test_every_other_category_counts_the_same():
    rises = np.array([[4.0, 1.0, 2.0, 5.0, 2.0, 3.0]])
    assert own_and_others(rises, CATEGORIES, "a").tolist() == [[3.0, (2.0 + 5.0) / 2]]


def test_numbers_and_their_intervals():
    rises = np.array([4.0, 1.0, 2.0, 1.0, 1.0, 1.0])
    draws = bootstrap_indices(CATEGORIES, 500, 0)
    found = core_numbers(rises, CATEGORIES, "a", draws)
    assert (found["effect"], found["others"]) == (3.0, 1.0)
    assert (found["selectivity"], found["specificity"]) == (2.0, 3.0)
    assert (found["ci_low"], found["ci_high"]) == (2.0, 4.0)
    assert (found["specificity_ci_low"], found["specificity_ci_high"]) == (2.0, 4.0)
    assert found["others_ci_low"] == found["others_ci_high"] == 1.0


@pytest.mark.parametrize(
    ("own", "others", "expected"), [(1.0, 0.0, np.inf), (1.0, -1.0, np.inf), (-1.0, 1.0, np.nan)]
)
def test_a_ratio_that_says_nothing_is_infinite_or_missing(own, others, expected):
    rises = np.where(CATEGORIES == "a", own, others)
    draws = bootstrap_indices(CATEGORIES, 20, 0)
    found = core_numbers(rises, CATEGORIES, "a", draws)
    np.testing.assert_equal(found["specificity"], expected)
