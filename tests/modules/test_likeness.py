"""Which modules of another set share most units with one module."""

import numpy as np
import pytest

import tl_modules as tlm


def test_the_nearest_modules_share_most_units(acts, modules):
    finer = tlm.discover(acts, 5, seed=1, progress=False)
    table = modules[0].nearest(finer, n=5)
    mine = modules.unit_labels == 0
    for row in table.itertuples():
        theirs = finer.unit_labels == row.module
        assert row.n_common == np.sum(mine & theirs)
        assert row.jaccard == pytest.approx(np.sum(mine & theirs) / np.sum(mine | theirs))
        assert row.category == finer[row.module].category_title
    assert table["jaccard"].is_monotonic_decreasing
    assert table["n_common"].sum() == mine.sum()
    assert modules[0].nearest(finer, n=2).equals(table.head(2))


def test_a_module_is_nearest_to_itself(modules):
    assert modules[2].nearest(modules, n=1)[["module", "jaccard"]].values.tolist() == [[2, 1.0]]


def test_what_cannot_be_compared_is_refused(modules, other_model, prompts):
    theirs = tlm.discover(tlm.collect(other_model, prompts, progress=False), 2, progress=False)
    with pytest.raises(tlm.ModulesError, match=r"hook points or widths differ. Use tlm.match_mod"):
        modules[0].nearest(theirs)
    with pytest.raises(tlm.ModulesError, match="at least one module; got none"):
        modules[0].nearest([])
    with pytest.raises(tlm.ModulesError, match="n should be at least 1; got 0"):
        modules[0].nearest(modules, n=0)
