import numpy as np
import pytest

from tl_modules.tables.roc import auc


def test_auc_is_scikit_learns():
    from sklearn.metrics import roc_auc_score

    generator = np.random.default_rng(0)
    scores = generator.integers(0, 6, (3, 2, 20)).astype(float)  # with ties
    truth = generator.random(20) < 0.4
    found = auc(scores, truth)
    for at in np.ndindex(3, 2):
        assert found[at] == pytest.approx(roc_auc_score(truth, scores[at]))
