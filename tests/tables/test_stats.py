import numpy as np
import pytest
from scipy import stats as scipy_stats

from tl_modules.tables.stats import (
    auc,
    benjamini_hochberg,
    bootstrap_indices,
    control_p_value,
    holm,
    percentile_interval,
    sign_flip_p_value,
)


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


def test_auc_is_scikit_learns():
    from sklearn.metrics import roc_auc_score

    generator = np.random.default_rng(0)
    scores = generator.integers(0, 6, (3, 2, 20)).astype(float)  # with ties
    truth = generator.random(20) < 0.4
    found = auc(scores, truth)
    for at in np.ndindex(3, 2):
        assert found[at] == pytest.approx(roc_auc_score(truth, scores[at]))
