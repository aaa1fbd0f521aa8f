import numpy as np
import pandas as pd
import pytest

import tl_modules as tlm


def effects(cells, own):
    """A table of effects as module_effects lays it out."""
    n_modules, n_categories = cells.shape
    return pd.DataFrame(
        {
            "module": np.repeat(np.arange(n_modules), n_categories),
            "category": np.tile([f"c{c}" for c in range(n_categories)], n_modules),
            "own": (np.arange(n_categories) == np.array(own)[:, None]).ravel(),
            "effect": cells.ravel(),
            "z": (cells * 2).ravel(),
        }
    )


def test_a_strong_diagonal_dominates_every_permutation():
    cells = 0.1 * np.random.default_rng(0).normal(size=(5, 5)) + np.eye(5)
    found = tlm.selectivity(effects(cells, range(5)))
    assert found.dominance == pytest.approx(
        np.mean([cells[k, k] - np.delete(cells[k], k).mean() for k in range(5)])
    )
    assert found.n_permutations == 120
    assert found.p_value == pytest.approx(1 / 120)
    assert abs(found.null_mean) < 0.1
    assert found.own.to_dict() == {k: f"c{k}" for k in range(5)}


def test_noise_does_not_dominate():
    generator = np.random.default_rng(0)
    p_values = [
        tlm.selectivity(effects(generator.normal(size=(5, 5)), range(5))).p_value
        for _ in range(200)
    ]
    assert 0.4 < np.mean(p_values) < 0.6
    assert np.mean(np.array(p_values) < 0.05) < 0.1


def test_a_category_that_is_easily_hurt_is_no_selectivity():
    # Every module hurts the first category most, its own or not.
    cells = np.tile([5.0, 0.0, 0.0, 0.0], (4, 1))
    found = tlm.selectivity(effects(cells, range(4)))
    assert found.dominance == pytest.approx(found.null_mean)
    assert found.p_value == 1


def test_modules_may_share_a_category():
    cells = np.array([[2.0, 0, 0], [3.0, 0, 0], [0, 1.0, 0]])
    found = tlm.selectivity(effects(cells, [0, 0, 1]))
    assert found.dominance == pytest.approx((2 + 3 + 1) / 3)
    assert found.p_value == pytest.approx(1 / 6)


def test_many_categories_are_permuted_at_random():
    cells = np.eye(9)
    one, again = (tlm.selectivity(effects(cells, range(9)), seed=1) for _ in range(2))
    assert one.n_permutations == 5040
    assert one.p_value == again.p_value < 0.01


def test_z_can_be_tested_in_the_place_of_the_effect():
    cells = np.eye(4)
    found = tlm.selectivity(effects(cells, range(4)), value="z")
    assert found.dominance == pytest.approx(2.0)


def test_the_table_of_a_real_run_is_taken(model, modules, prompts):
    table = tlm.module_effects(model, modules, prompts, n_controls=2, progress=False)
    found = tlm.selectivity(table)
    own = table[table["own"]]
    assert found.dominance == pytest.approx(own["selectivity"].mean())
    assert found.table.shape == (3, 2)


def test_tables_without_categories_are_refused():
    cells = effects(np.eye(3), range(3))
    with pytest.raises(tlm.ModulesError, match=r"lacks \['own'\]"):
        tlm.selectivity(cells.drop(columns="own"))
    with pytest.raises(tlm.ModulesError, match="value should be one of 'effect', 'z'"):
        tlm.selectivity(cells, value="p_value")
    with pytest.raises(tlm.ModulesError, match="needs two or more categories"):
        tlm.selectivity(cells[cells["category"] == "c0"])
    with pytest.raises(tlm.ModulesError, match="needs two or more categories"):
        tlm.selectivity(cells.assign(own=False))


def test_unknown_values_and_modules_of_two_sets_are_refused():
    cells = effects(np.eye(3), range(3))
    cells.loc[4, "z"] = np.nan
    with pytest.raises(tlm.ModulesError, match="z should be known; some are NaN"):
        tlm.selectivity(cells, value="z")
    twice = pd.concat([cells, cells])
    with pytest.raises(tlm.ModulesError, match="one row per module and category"):
        tlm.selectivity(twice)


def test_modules_that_share_a_label_are_refused(model, modules, prompts):
    with pytest.raises(tlm.ModulesError, match=r"different labels.*got \[0, 0\]"):
        tlm.module_effects(model, [modules[0], modules[0]], prompts, progress=False)
