import numpy as np
import pytest
from scipy import stats as scipy_stats

from tl_modules.tables.bootstrap import bootstrap_indices, percentile_interval


def test_resamples_keep_each_groups_size():
    groups = np.array(["a"] * 5 + ["b"] * 3)
    draws = bootstrap_indices(groups, 50, seed=0)
    assert (draws[:, :5] < 5).all()
    assert (draws[:, 5:] >= 5).all()
    assert len(np.unique(draws[:, 0])) == 5


def test_the_interval_agrees_with_scipys_percentile_bootstrap():
    values = np.random.default_rng(0).normal(3, 2, size=40)
    draws = bootstrap_indices(np.zeros(40, dtype=int), 20_000, seed=1)
    low, high = percentile_interval(values[draws].mean(axis=1))
    expected = scipy_stats.bootstrap(
        (values,), np.mean, n_resamples=20_000, method="percentile", rng=2
    ).confidence_interval
    assert low == pytest.approx(expected.low, abs=0.03)
    assert high == pytest.approx(expected.high, abs=0.03)
