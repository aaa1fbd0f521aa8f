import numpy as np
import pandas as pd
import pytest

import tl_modules as tlm
from tests.interpret.made_by_hand import layered, module_set

UNITS = layered((60, 90, 50))
N_SAMPLES = 60


def random_set(n_modules, generator):
    """A set whose labels are dealt out at random."""
    return module_set(
        generator.integers(0, n_modules, len(UNITS)),
        UNITS,
        generator.integers(0, n_modules, N_SAMPLES),
        n_modules=n_modules,
    )


@pytest.fixture(scope="module")
def nested():
    """12 modules that split 6, which split 3."""
    generator = np.random.default_rng(0)
    units, samples = generator.integers(0, 12, len(UNITS)), generator.integers(0, 12, N_SAMPLES)
    return [module_set(units // by, UNITS, samples // by, n_modules=12 // by) for by in (1, 2, 4)]


def test_truly_nested_modules_lie_wholly_in_the_coarser_ones(nested):
    found = tlm.nestedness(nested)
    assert found.overall[["coarser_k", "finer_k"]].drop_duplicates().to_numpy().tolist() == [
        [3, 6],
        [6, 12],
    ]
    assert (found.overall["share"] == 1).all()
    assert (found.overall["p_value"] == 1 / 200).all()
    assert (found.overall["null_mean"] < 0.7).all()
    assert (found.table["share"] == 1).all()
    assert (found.table["coarser"] == found.table["module"] // 2).all()


def test_shares_are_those_of_the_best_coarser_module(nested):
    generator = np.random.default_rng(1)
    coarse, fine = random_set(3, generator), random_set(5, generator)
    table = tlm.nestedness([fine, coarse]).table
    for row in table.itertuples():
        labels = f"{row.kind[:-1]}_labels"
        inside = getattr(coarse, labels)[getattr(fine, labels) == row.module]
        counts = np.bincount(inside, minlength=3)
        assert row.n == counts.sum()
        assert row.coarser == counts.argmax()
        assert row.share == pytest.approx(counts.max() / counts.sum())


def test_random_labels_are_as_nested_as_their_null():
    generator = np.random.default_rng(2)
    tables = [
        tlm.nestedness([random_set(3, generator), random_set(6, generator)], n_permutations=39)
        for _ in range(30)
    ]
    overall = pd.concat([found.overall for found in tables])
    assert (overall["share"] - overall["null_mean"]).mean() == pytest.approx(0, abs=0.01)
    assert overall["share"].mean() > 0.4  # far above 1 / 3
    assert (overall["p_value"] <= 0.05).mean() < 0.15
    assert 0.35 < overall["p_value"].mean() < 0.65


def test_modules_that_only_share_layers_are_no_more_nested_than_their_null():
    # Each layer a coarser module, and finer ones within: permuted within layers, nothing changes.
    fine = UNITS.hook * 2 + UNITS.index % 2
    coarse = module_set(UNITS.hook, UNITS, np.zeros(3, dtype=int), n_modules=3)
    finer = module_set(fine, UNITS, np.zeros(3, dtype=int), n_modules=6)
    units = tlm.nestedness([coarse, finer]).overall.set_index("kind").loc["units"]
    assert units["share"] == units["null_mean"] == units["p_value"] == 1


def test_the_background_is_no_module(nested):
    fine, coarse = nested[:2]
    labels = fine.unit_labels.copy()
    labels[:20] = -1
    aside = module_set(labels, UNITS, fine.sample_labels, n_modules=12)
    units = tlm.nestedness([aside, coarse]).table.query("kind == 'units'")
    assert units["n"].sum() == len(UNITS) - 20
    assert (units["share"] == 1).all()
    coarse_labels = coarse.unit_labels.copy()
    coarse_labels[:20] = -1
    aside = module_set(coarse_labels, UNITS, coarse.sample_labels, n_modules=6)
    overall = tlm.nestedness([fine, aside]).overall.set_index("kind")
    assert overall.loc["units", "share"] == pytest.approx(1 - 20 / len(UNITS))


def test_an_empty_module_has_no_share():
    generator = np.random.default_rng(3)
    finer = module_set(np.arange(200) % 3, UNITS, np.arange(60) % 3, n_modules=4)
    table = tlm.nestedness([random_set(2, generator), finer]).table.query("module == 3")
    assert table["n"].tolist() == [0, 0]
    assert table[["share", "null_mean", "p_value"]].isna().all(axis=None)


def test_real_discoveries_of_planted_levels_nest():
    generator = np.random.default_rng(0)
    samples = generator.permutation(np.arange(80) % 4)
    units = generator.permutation(np.arange(160) % 4)
    strength = 2.0 * np.eye(4) + 2.0 * np.kron(np.eye(2), np.ones((2, 2)))
    acts = tlm.ActivationMatrix.from_arrays(
        generator.normal(size=(80, 160)) + strength[samples][:, units]
    )
    found = tlm.nestedness([tlm.discover(acts, k) for k in (4, 2)])
    assert (found.overall["share"] > 0.95).all()
    assert (found.overall["p_value"] == 1 / 200).all()
    assert repr(found).startswith("Nestedness(2 > 4 units")
    assert "null_mean" in found._repr_html_()


def test_sets_that_are_no_levels_of_one_matrix_are_refused(nested):
    generator = np.random.default_rng(4)
    with pytest.raises(tlm.ModulesError, match=r"at least two module sets.*got K = \[12\]"):
        tlm.nestedness(nested[:1])
    with pytest.raises(tlm.ModulesError, match=r"with different K; got K = \[12, 12\]"):
        tlm.nestedness([nested[0], nested[0]])
    others = module_set(np.arange(30) % 2, layered((30,)), np.arange(60) % 2)
    with pytest.raises(tlm.ModulesError, match="should have the same units"):
        tlm.nestedness([nested[0], others])
    fewer = module_set(generator.integers(0, 2, 200), UNITS, [0, 1, 0], n_modules=2)
    with pytest.raises(tlm.ModulesError, match="same samples; those of K = 2 and K = 12 differ"):
        tlm.nestedness([nested[0], fewer])
    with pytest.raises(tlm.ModulesError, match="n_permutations should be at least 1; got 0"):
        tlm.nestedness(nested, n_permutations=0)
    with pytest.raises(tlm.ModulesError, match="seed should lie between"):
        tlm.nestedness(nested, seed=-1)
