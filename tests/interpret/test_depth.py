from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy.stats import hypergeom

import tl_modules as tlm
from tests.interpret.made_by_hand import layered, module_set

WIDTHS = (20, 30, 20, 30, 20, 30)


def random_labels(seed, widths=WIDTHS, n_modules=4):
    return np.random.default_rng(seed).integers(0, n_modules, sum(widths))


@pytest.fixture(scope="module")
def planted():
    """Module 0 in the first third of six layers, 1 in the middle, 2 in the last, 3 in all."""
    units = layered([20] * 6)
    layers = np.asarray(units.layers)[units.hook]
    return module_set(np.where(units.index < 8, 3, layers // 2), units)


def test_a_modules_layers_are_counted_beside_what_chance_would_give():
    modules = module_set(random_labels(0), layered(WIDTHS))
    table = tlm.module_layers(modules)
    assert len(table) == 4 * 6
    for row in table.itertuples():
        units = modules[row.module].units
        assert row.n_units == (units.hook == row.layer).sum()
        assert row.expected == pytest.approx(len(units) * WIDTHS[row.layer] / sum(WIDTHS))
        assert row.ratio == pytest.approx(row.n_units / row.expected)
        outcomes = np.arange(WIDTHS[row.layer] + 1)
        chance = hypergeom.pmf(outcomes, sum(WIDTHS), WIDTHS[row.layer], len(units))
        low, high = chance[: row.n_units + 1].sum(), chance[row.n_units :].sum()
        assert row.p_value == pytest.approx(min(2 * min(low, high), 1))
    p_values = table["p_value"].to_numpy()
    assert (table["p_holm"] >= table["p_bh"]).all()
    assert (table["p_bh"] >= p_values).all()


@pytest.mark.parametrize(("width", "level"), [(100, 0.038), (300, 0.041), (1536, 0.047)])
def test_the_share_of_random_modules_that_pass_is_what_whole_numbers_allow(width, level):
    units, shares = layered([width] * 6), []
    samples = module_set(np.arange(6 * width) % 2, units).samples
    for size in (115 * width // 100, 138 * width // 100, 162 * width // 100, 185 * width // 100):
        chance = hypergeom.pmf(np.arange(width + 1), 6 * width, width, size)
        likely = np.flatnonzero(chance > 1e-6)
        # One module with each number of units in the first layer, and the rest in the others.
        places = [np.r_[:count, width : width + size - count] for count in likely]
        modules = [
            tlm.Module(label, units.select(np.isin(np.arange(6 * width), place)), samples)
            for label, place in enumerate(places)
        ]
        table = tlm.module_layers(modules).query("layer == 0")
        assert table["n_units"].tolist() == likely.tolist()
        shares.append(chance[likely][table["p_value"] <= 0.05].sum())
    assert np.mean(shares) == pytest.approx(level, abs=0.0006)


def test_the_planted_layers_stand_out_and_those_of_an_even_module_do_not(planted):
    table = tlm.module_layers(planted)
    ratio = table.pivot(index="module", columns="layer", values="ratio").to_numpy()
    np.testing.assert_allclose(ratio, np.vstack([np.repeat(np.eye(3) * 3, 2, axis=1), np.ones(6)]))
    significant = (table["p_holm"] <= 0.05).to_numpy().reshape(4, 6)
    np.testing.assert_array_equal(significant[:3], ratio[:3] > 0)
    assert (table.loc[table["module"] == 3, "p_value"] == 1).all()


def test_hook_points_of_one_layer_count_together():
    units = layered((4, 6, 10), layers=(0, 0, 1))
    table = tlm.module_layers(module_set(np.arange(20) % 2, units))
    assert table["layer"].tolist() == [0, 1, 0, 1]
    assert table["n_units"].tolist() == [5, 5, 5, 5]
    assert table["expected"].tolist() == [5, 5, 5, 5]


def test_modules_confined_to_some_layers_have_the_index_of_their_third(planted):
    table = tlm.module_depth(planted).set_index("module")
    assert table["index"].tolist() == [-1, 0, 1, 0]
    assert table[["early", "middle", "late"]].to_numpy()[:3].tolist() == np.eye(3).tolist()
    assert table["mean_layer"].tolist() == [0.5, 2.5, 4.5, 2.5]
    assert table["std_layer"].tolist() == pytest.approx([0.5] * 3 + [np.sqrt(35 / 12)])
    assert table["evenness"].tolist() == pytest.approx([np.log(2) / np.log(6)] * 3 + [1])
    assert table["p_value"][[0, 2]].tolist() == [1 / 2000] * 2
    assert (table["p_value"][[1, 3]] > 0.5).all()
    assert (table["evenness_p_value"][:3] == 1 / 2000).all()
    assert table["evenness_p_value"][3] == 1
    assert table["p_holm"][0] == pytest.approx(4 / 2000)
    assert (table["expected_index"] == 0).all()
    assert (table["expected_mean_layer"] == 2.5).all()
    assert table["expected_std_layer"].tolist() == pytest.approx([np.sqrt(35 / 12)] * 4)


def test_random_labels_are_as_deep_and_as_even_as_chance_says():
    units = layered((10, 20, 30, 40, 120))
    n_units = len(units)
    tables = [
        tlm.module_depth(
            module_set(np.random.default_rng(seed).permutation(np.arange(n_units) % 4), units),
            n_draws=199,
            seed=seed,
        )
        for seed in range(40)
    ]
    table = pd.concat(tables)
    for name in ("p_value", "evenness_p_value"):
        assert (table[name] <= 0.05).mean() < 0.12
        assert 0.4 < table[name].mean() < 0.6
    # Layers of unequal width: chance is not in the middle.
    assert table["expected_index"].iloc[0] == pytest.approx((120 + 40 - 30) / 220)
    assert table["index"].mean() == pytest.approx(table["expected_index"].iloc[0], abs=0.02)


@pytest.mark.parametrize(
    ("n_layers", "shares"),
    [(2, [1 / 2, 0, 1 / 2]), (4, [1 / 4, 1 / 2, 1 / 4]), (5, [2 / 5, 1 / 5, 2 / 5])],
)
def test_as_many_layers_are_early_as_late(n_layers, shares):
    units = layered([6] * n_layers)
    row = tlm.module_depth(module_set(units.index % 2, units), n_draws=1).iloc[0]
    assert row[["early", "middle", "late"]].tolist() == pytest.approx(shares)
    assert row["expected_index"] == 0


def test_only_layers_that_have_units_are_split_into_thirds():
    units = layered((6, 6, 6), layers=(3, 11, 20))
    table = tlm.module_depth(module_set(units.hook, units), n_draws=9)
    assert table["index"].tolist() == [-1, 0, 1]
    assert table["mean_layer"].tolist() == [3, 11, 20]


def test_a_module_without_units_lies_nowhere(planted):
    labels = np.where(planted.unit_labels == 1, 0, planted.unit_labels)
    emptied = replace(planted, unit_labels=labels)
    row = tlm.module_depth(emptied).iloc[1]
    assert row["n_units"] == 0
    assert row[["mean_layer", "std_layer", "evenness", "index", "p_value", "p_holm"]].isna().all()
    cells = tlm.module_layers(emptied).query("module == 1")
    assert cells["ratio"].isna().all()
    assert cells[["p_value", "p_holm", "p_bh"]].isna().all(axis=None)
    others = tlm.module_layers([module for module in emptied if module.label != 1])
    together = tlm.module_layers(emptied).query("module != 1")
    assert together["p_bh"].tolist() == pytest.approx(others["p_bh"].tolist())


def test_the_same_seed_gives_the_same_depths_and_another_does_not():
    modules = module_set(random_labels(0), layered(WIDTHS))
    first, again, other = (tlm.module_depth(modules, seed=seed) for seed in (0, 0, 1))
    pd.testing.assert_frame_equal(first, again)
    assert not first.equals(other)


def test_one_module_is_taken_alone(planted):
    assert tlm.module_layers(planted[2])["module"].tolist() == [2] * 6
    assert tlm.module_depth(planted[2])["index"].tolist() == [1]


def test_what_lies_in_no_layers_is_refused():
    anonymous = module_set(np.arange(8) % 2, layered((8,)))
    for ask in (tlm.module_layers, tlm.module_depth):
        with pytest.raises(tlm.ModulesError, match="at least two layers; all 8 are in layer 0"):
            ask(anonymous)
        with pytest.raises(tlm.ModulesError, match="at least one module; got none"):
            ask([])
    with pytest.raises(tlm.ModulesError, match="n_draws should be at least 1; got 0"):
        tlm.module_depth(anonymous, n_draws=0)
    with pytest.raises(tlm.ModulesError, match="seed should lie between"):
        tlm.module_depth(anonymous, seed=-1)
