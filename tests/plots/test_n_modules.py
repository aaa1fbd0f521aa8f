import numpy as np
import pytest

import tl_modules as tlm
from tests.planted import planted_matrix


@pytest.fixture(scope="module")
def table():
    acts = tlm.ActivationMatrix.from_arrays(planted_matrix(60, 80, 3, seed=0, strength=1.5)[0])
    return tlm.choose_n_modules(acts, (2, 3, 5), n_seeds=2, n_halves=2, progress=False)


def test_every_number_of_the_table_is_drawn(table):
    figure = tlm.plots.plot_n_modules(table)
    left = {trace.name: trace for trace in figure.data if trace.xaxis == "x"}
    assert list(left) == ["seeds", "halves of the prompts", "null: permuted columns"]
    for name, kind in zip(left, ("seeds", "halves", "null"), strict=True):
        rows = table.xs(kind, level="kind")
        assert list(left[name].x) == [2, 3, 5]
        assert list(left[name].y) == rows["ari"]["mean"].tolist()
        np.testing.assert_allclose(left[name].error_y.array, rows["ari"]["std"].fillna(0))
    right = [trace for trace in figure.data if trace.xaxis == "x2"]
    halves = table.xs("halves", level="kind")
    expected = halves["held_out_L"]["mean"] / halves["L"]["mean"]
    np.testing.assert_allclose(right[0].y, expected)
    assert len(right) == 2


def test_the_figure_says_what_it_shows(table):
    layout = tlm.plots.plot_n_modules(table).layout
    assert layout.title.text
    for axis in (layout.xaxis, layout.xaxis2, layout.yaxis, layout.yaxis2):
        assert axis.title.text


def test_another_table_is_refused(table):
    with pytest.raises(tlm.ModulesError, match="should be what choose_n_modules returned"):
        tlm.plots.plot_n_modules(table.reset_index())
