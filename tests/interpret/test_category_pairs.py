"""How alike the modules of categories are, on profiles with correlations worked out by hand."""

import numpy as np
import pytest

import tl_modules as tlm
from tests.interpret.made_by_hand import layered, module_set

# The products of the first three are 1, -2 and -1, and each has length 2: r = 0.5, -1 and -0.5.
PROFILES = np.array([[1, -1, 0, 0], [1, 0, -1, 0], [-1, 1, 0, 0], [3, 3, 3, 3]], dtype=float)


def made(n_modules, categories):
    """A module per unit, and a sample per module, whose category is the module's."""
    units = layered((n_modules,))
    modules = module_set(np.arange(n_modules), units, [0, 1, 2, 3], categories, 4)
    acts = tlm.ActivationMatrix.from_arrays(PROFILES[:n_modules].T, units, modules.samples)
    return modules, acts.zscore()


def test_similarities_are_the_mean_correlations_of_modules_profiles():
    table = tlm.category_similarity(*made(4, ["x", "x", "y", "z"]))
    rows = table.set_index(["category", "other"])
    assert rows.index.tolist() == [(a, b) for a in "xyz" for b in "xyz"]
    # Two modules of x make a pair in either order; y and z have one module each.
    assert rows["n_pairs"].tolist() == [2, 2, 2, 2, 0, 1, 2, 1, 0]
    similarity = rows["similarity"]
    assert similarity["x", "x"] == pytest.approx(0.5)
    assert similarity["x", "y"] == similarity["y", "x"] == pytest.approx((-1 - 0.5) / 2)
    assert np.isnan(similarity["y", "y"])
    assert np.isnan(similarity["z", "z"])
    assert similarity["x", "z"] == similarity["z", "y"] == 0  # a constant profile


def test_the_users_own_category_of_a_module_counts():
    modules, acts = made(4, ["x", "x", "y", "z"])
    rows = tlm.category_similarity(modules.with_categories({3: "y"}), acts)
    assert rows["category"].unique().tolist() == ["x", "y"]
    assert rows["n_pairs"].tolist() == [2, 4, 4, 2]


def test_what_has_no_categories_or_too_few_samples_is_refused():
    modules, acts = made(4, None)
    with pytest.raises(tlm.ModulesError, match="modules should have categories; none has one"):
        tlm.category_similarity(modules, acts)
    modules, acts = made(4, list("xxyz"))
    with pytest.raises(tlm.ModulesError, match=r"at least 3 samples .* got 2"):
        tlm.category_similarity(modules, acts.select([0, 1]))
