from dataclasses import replace

import numpy as np
import pytest

import tl_modules as tlm
from tests.planted import planted_matrix
from tests.report.reading import check_readable, names_overlap


@pytest.fixture(scope="module")
def tree():
    matrix, samples, _ = planted_matrix(60, 80, 4, seed=0, strength=1.5)
    frame = tlm.ActivationMatrix.from_arrays(matrix).samples.assign(
        category=[f"c{k}" for k in samples]
    )
    acts = tlm.ActivationMatrix.from_arrays(matrix, samples=frame)
    return tlm.hierarchy(tlm.discover(acts, 4), acts)


def test_every_merge_is_drawn_at_its_distance(tree):
    lines, leaves = tlm.plots.plot_hierarchy(tree).data
    across = np.array(lines.x, dtype=float).reshape(-1, 5)
    assert np.isnan(across[:, 4]).all()
    np.testing.assert_allclose(np.sort(across[:, 1]), tree.linkage[:, 2])
    np.testing.assert_array_equal(across[:, 1], across[:, 2])
    assert list(leaves.x) == [0] * 4


def test_each_leaf_is_named_where_its_branch_ends(tree):
    figure = tlm.plots.plot_hierarchy(tree)
    lines, leaves = figure.data
    assert dict(zip(leaves.text, leaves.y, strict=True)) == dict(
        zip(figure.layout.yaxis.ticktext, figure.layout.yaxis.tickvals, strict=True)
    )
    assert {name.split(":")[0] for name in leaves.text} == {"0", "1", "2", "3"}
    assert all(f": {tree.modules[int(name[0])].category}" in name for name in leaves.text)
    # The first merge joins the two that the linkage matrix names.
    across = np.array(lines.x, dtype=float).reshape(-1, 5)
    down = np.array(lines.y, dtype=float).reshape(-1, 5)
    first = np.flatnonzero(across[:, 1] == tree.linkage[0, 2])[0]
    at = dict(zip(leaves.y, leaves.text, strict=True))
    joined = {int(at[down[first, 0]][0]), int(at[down[first, 2]][0])}
    assert joined == set(tree.linkage[0, :2].astype(int))


def test_the_figure_says_what_it_shows_on_light_and_on_dark_pages(tree):
    figure = tlm.plots.plot_hierarchy(tree)
    check_readable(figure)
    assert "1 - Pearson correlation" in figure.layout.xaxis.title.text
    assert f"{tree.cophenetic:.2f}" in figure.layout.title.text


def test_100_modules_are_drawn_and_their_names_do_not_overlap():
    matrix = np.random.default_rng(0).normal(size=(120, 200))
    acts = tlm.ActivationMatrix.from_arrays(matrix)
    found = tlm.discover(acts, 100, max_rounds=1)
    filled = replace(found, unit_labels=np.arange(200) % 100)  # noise leaves modules empty
    tree = tlm.hierarchy(filled, acts, n_permutations=1)
    figure = tlm.plots.plot_hierarchy(tree)
    assert len(figure.data[1].text) == 100
    assert len(figure.data[0].x) == 99 * 5
    assert not names_overlap(figure, 100)
