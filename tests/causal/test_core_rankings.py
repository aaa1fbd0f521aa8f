from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

import tl_modules as tlm
from tl_modules.causal.core_rankings import Evidence, ranked, welch_t


def test_welch_s_t_is_scipy_s():
    generator = np.random.default_rng(0)
    own, others = generator.standard_normal((5, 7)), generator.standard_normal((9, 7))
    own[:, 0], others[:, 0] = 1.0, 1.0
    found = welch_t(own, others)
    expected = stats.ttest_ind(own[:, 1:], others[:, 1:], equal_var=False).statistic
    np.testing.assert_allclose(found[1:], expected)
    assert found[0] == 0


@pytest.fixture
def evidence(modules):
    generator = np.random.default_rng(1)
    n_units = len(modules.units)
    categories = np.array(["animal", "code"] * 4, dtype=object)
    return Evidence(
        {name: generator.standard_normal(n_units) for name in ("animal", "code")},
        generator.standard_normal((8, n_units)),
        categories,
        seed=0,
    )


def test_each_ranking_takes_the_highest_first(modules, evidence):
    module = modules[0]
    own = module.units.flat()

    def order(name):
        return ranked(name, module, "animal", evidence)

    scores = evidence.contrasts["animal"]
    assert order("core").tolist() == own[np.argsort(-scores[own])].tolist()
    assert order("fit").tolist() == own[np.argsort(-module.scores, kind="stable")].tolist()
    assert order("all units").tolist() == np.argsort(-scores).tolist()
    t = welch_t(evidence.readings[::2], evidence.readings[1::2])
    assert order("t-contrast").tolist() == np.argsort(-t).tolist()
    assert sorted(order("random")) == sorted(own)
    assert order("random").tolist() == order("random").tolist()
    assert ranked("all units", module, "code", evidence).tolist() != order("all units").tolist()


def test_what_a_ranking_lacks_is_said(modules, model, prompts):
    halves = prompts.iloc[:8], prompts.iloc[8:]
    bare = replace(modules, unit_scores=None)
    with pytest.raises(tlm.ModulesError, match="rankings has 'fit', and these modules hold no"):
        tlm.causal_cores(model, bare, *halves, progress=False)
