import numpy as np
import pytest
from scipy import stats as scipy_stats

from tl_modules.tables.p_values import benjamini_hochberg, holm, sign_flip_p_value


@pytest.mark.parametrize("n_values", [2, 5, 12, 40])
def test_the_sign_flip_test_agrees_with_scipys(n_values):
    values = np.random.default_rng(n_values).normal(0.4, 1, size=n_values)
    expected = scipy_stats.permutation_test(
        (values,),
        np.mean,
        permutation_type="samples",
        n_resamples=20_000,
        alternative="two-sided",
        rng=np.random.default_rng(0),
    ).pvalue
    tolerance = 1e-12 if n_values <= 12 else 0.02
    assert sign_flip_p_value(values) == pytest.approx(expected, abs=tolerance)


def test_no_values_have_no_p_value():
    assert np.isnan(sign_flip_p_value(np.array([])))
    assert np.isnan(sign_flip_p_value(np.array([1.0, np.nan, 2.0])))


@pytest.mark.parametrize("adjust", [holm, benjamini_hochberg])
def test_adjusted_p_values_keep_their_order_their_gaps_and_their_range(adjust):
    p_values = np.random.default_rng(0).uniform(size=20) ** 2
    p_values[[3, 8]] = np.nan
    found = adjust(p_values)
    assert np.isnan(found).tolist() == np.isnan(p_values).tolist()
    known = ~np.isnan(p_values)
    assert (found[known] >= p_values[known]).all()
    assert (found[known] <= 1).all()
    order = np.argsort(p_values[known])
    assert (np.diff(found[known][order]) >= 0).all()
    assert np.isnan(adjust(np.full(3, np.nan))).all()
