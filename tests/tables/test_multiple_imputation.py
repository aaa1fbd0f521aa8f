"""Rubin's rules on cases worked by hand."""

from math import sqrt

import numpy as np
import pytest
from scipy.stats import norm, t

from tl_modules.tables.bootstrap import percentile_interval
from tl_modules.tables.multiple_imputation import pooled

TWO = np.array([[-1.0, 1.0], [1.0, 3.0]])
"""Two resamples in each of two draws, whose estimates are 0 and 2."""


def test_two_draws_by_hand():
    found = pooled(np.array([0.0, 2.0]), TWO)
    # Within: variance 2 in each draw. Between: 2, times 1 + 1 / 2.
    within, between = 2.0, 3.0
    freedom = 1 * (1 + within / between) ** 2
    assert freedom == pytest.approx(25 / 9)
    wider = t.ppf(0.975, freedom) * sqrt(5) - norm.ppf(0.975) * sqrt(2)
    # Between two resamples quantiles are interpolated: 0.05 from each end, on a length of 2.
    assert found.estimate == 1.0
    assert found.low == pytest.approx((-0.95 + 1.05) / 2 - wider)
    assert found.high == pytest.approx((0.95 + 2.95) / 2 + wider)
    assert found.share == pytest.approx(3 / 5)


def test_one_draw_has_the_percentile_interval_to_the_bit():
    resampled = np.random.default_rng(0).gamma(1.0, size=(1, 500, 3))
    found = pooled(np.ones((1, 3)), resampled)
    low, high = percentile_interval(resampled[0])
    np.testing.assert_array_equal(found.low, low)
    np.testing.assert_array_equal(found.high, high)
    np.testing.assert_array_equal(found.share, 0.0)


def test_the_more_draws_differ_the_wider_is_the_interval():
    apart = np.array([0.0, 0.001, 0.1, 1.0])
    estimates = np.stack([-apart, apart, 0 * apart])
    resampled = np.random.default_rng(0).normal(size=(1, 400, 1)) + estimates[:, None]
    found = pooled(estimates, resampled)
    widths = found.high - found.low
    assert (np.diff(widths) > 0).all()
    assert (np.diff(found.share) > 0).all()
    assert found.share[0] == 0
    # Each draw has the same resamples but for its shift: without one, the interval is theirs.
    low, high = percentile_interval(resampled[0, :, 0])
    np.testing.assert_allclose([found.low[0], found.high[0]], [low, high], rtol=1e-12)


def test_draws_that_differ_without_variance_within_have_a_t_interval():
    found = pooled(np.array([0.0, 1.0, 2.0]), np.repeat([[0.0], [1.0], [2.0]], 5, axis=1))
    half = t.ppf(0.975, 2) * sqrt(4 / 3)
    assert (found.low, found.high) == pytest.approx((1 - half, 1 + half))
    assert found.share == 1.0


def test_nothing_that_varies_has_no_width_and_what_is_missing_stays_missing():
    found = pooled(np.zeros((2, 2)), np.array([[[0.0, np.nan]] * 4, [[0.0, 0.0]] * 4]))
    np.testing.assert_array_equal(found.low, [0.0, np.nan])
    np.testing.assert_array_equal(found.high, [0.0, np.nan])
    np.testing.assert_array_equal(found.share, [0.0, np.nan])
