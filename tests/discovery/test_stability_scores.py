import numpy as np
import pytest

import tl_modules as tlm
from tests.planted import planted_matrix


@pytest.fixture(scope="module")
def table():
    acts = tlm.ActivationMatrix.from_arrays(planted_matrix(120, 160, 4, seed=0, strength=1.5)[0])
    return tlm.stability(acts, 4, n_seeds=3, n_halves=2, progress=False)


def test_planted_blocks_agree_over_seeds_and_halves_and_a_null_does_not(table):
    means = table.groupby("kind")["ari"].mean()
    assert means["seeds"] > 0.95
    assert means["halves"] > 0.9
    assert abs(means["null"]) < 0.1


def test_every_pair_of_seeds_and_every_split_has_a_row(table):
    assert table["kind"].value_counts().to_dict() == {"seeds": 3, "halves": 2, "null": 2}
    assert table.loc[table["kind"] == "seeds", "held_out_L"].isna().all()
    assert table.loc[table["kind"] != "seeds", "held_out_L"].notna().all()


def test_labels_of_one_half_explain_the_other_and_those_of_the_null_do_not(table):
    means = table.groupby("kind")[["L", "held_out_L"]].mean()
    assert means.loc["halves", "held_out_L"] > 0.8 * means.loc["halves", "L"]
    assert means.loc["null", "held_out_L"] < 0.5 * means.loc["null", "L"]


def test_the_true_k_is_the_most_stable():
    acts = tlm.ActivationMatrix.from_arrays(planted_matrix(120, 160, 4, seed=0, strength=1.5)[0])
    found = tlm.choose_n_modules(acts, (2, 4, 7), n_seeds=2, n_halves=2, progress=False)
    halves = found.xs("halves", level="kind")["ari"]["mean"]
    assert halves.idxmax() == 4
    assert found.index.names == ["n_modules", "kind"]


def test_the_same_seed_gives_the_same_table():
    acts = tlm.ActivationMatrix.from_arrays(np.random.default_rng(0).normal(size=(24, 30)))
    options = {"n_seeds": 2, "n_halves": 1, "progress": False}
    first, again = (tlm.stability(acts, 3, **options) for _ in range(2))
    assert first.equals(again)


def test_what_cannot_be_compared_is_refused():
    acts = tlm.ActivationMatrix.from_arrays(np.random.default_rng(0).normal(size=(12, 30)))
    with pytest.raises(tlm.ModulesError, match="needs raw activations"):
        tlm.stability(acts.zscore(), 3)
    with pytest.raises(tlm.ModulesError, match="n_seeds should be at least 2; got 1"):
        tlm.stability(acts, 3, n_seeds=1)
    with pytest.raises(tlm.ModulesError, match="= 6; got 7"):
        tlm.stability(acts, 7, n_seeds=2, progress=False)


def test_a_range_of_no_k_is_refused():
    acts = tlm.ActivationMatrix.from_arrays(np.random.default_rng(0).normal(size=(12, 30)))
    with pytest.raises(tlm.ModulesError, match="n_modules should name at least one K"):
        tlm.choose_n_modules(acts, ())


def test_the_true_k_has_the_highest_silhouette_whatever_the_sizes():
    generator = np.random.default_rng(0)
    samples = np.repeat(np.arange(5), [60, 8, 8, 8, 8])
    units = np.repeat(np.arange(5), [160, 20, 20, 20, 20])
    values = generator.normal(size=(92, 240)) + 2.5 * (samples[:, None] == units)
    acts = tlm.ActivationMatrix.from_arrays(values)
    options = {"n_seeds": 2, "n_halves": 1, "progress": False}
    for method in ("topics_first", "ulcmod"):
        table = tlm.choose_n_modules(acts, (3, 4, 5, 6), method=method, **options)
        assert tlm.best_n_modules(table) == 5


def test_topics_first_agrees_with_itself_on_planted_blocks():
    acts = tlm.ActivationMatrix.from_arrays(planted_matrix(120, 160, 4, seed=0, strength=1.5)[0])
    options = {"n_seeds": 2, "n_halves": 2, "progress": False}
    means = tlm.stability(acts, 4, method="topics_first", **options).groupby("kind")["ari"].mean()
    assert means["halves"] > 0.9
    assert abs(means["null"]) < 0.1


def test_a_table_without_silhouettes_names_no_k(table):
    with pytest.raises(tlm.ModulesError, match="should be what choose_n_modules returned"):
        tlm.best_n_modules(table)
