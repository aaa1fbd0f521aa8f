import numpy as np
import pandas as pd
import pytest

import tl_modules as tlm
from tests.report.reading import check_readable

pytest.importorskip("plotly", reason="the extra 'viz' is not installed in this environment")


def test_a_confusion_table_is_drawn_as_shares_of_the_rows():
    table = pd.DataFrame(
        {
            "category": ["<b>a</b>", "<b>a</b>", "c", "c"],
            "predicted": ["z", "<b>a</b>"] * 2,
            "n": [1, 3, 0, 2],
            "share": [0.25, 0.75, 0, 1],
        }
    )
    figure = tlm.plots.plot_categories(table)
    heatmap, texts = figure.data
    np.testing.assert_array_equal(heatmap.z, [[0.25, 0.75], [0, 1]])
    assert list(texts.text) == ["25%", "75%", "0%", "100%"]
    assert (list(texts.x), list(texts.y)) == ([0, 1, 0, 1], [0, 0, 1, 1])
    assert heatmap.customdata[0, 1].tolist() == ["&lt;b&gt;a&lt;/b&gt;"] * 2 + [3.0]
    assert (heatmap.zmin, heatmap.zmax) == (0, 1)
    assert list(figure.layout.yaxis.ticktext) == ["&lt;b&gt;a&lt;/b&gt;", "c"]
    assert list(figure.layout.xaxis.ticktext) == ["z", "&lt;b&gt;a&lt;/b&gt;"]
    check_readable(figure)


def test_similarities_are_drawn_from_minus_one_to_one():
    table = pd.DataFrame(
        {
            "category": ["x", "x", "y", "y"],
            "other": ["x", "y"] * 2,
            "n_pairs": [2, 2, 2, 0],
            "similarity": [0.5, -0.75, -0.75, np.nan],
        }
    )
    figure = tlm.plots.plot_categories(table)
    heatmap, texts = figure.data
    np.testing.assert_array_equal(heatmap.z, [[0.5, -0.75], [-0.75, np.nan]])
    assert list(texts.text) == ["0.50", "-0.75", "-0.75"]
    assert (heatmap.zmin, heatmap.zmax) == (-1, 1)
    check_readable(figure)


def test_many_categories_have_no_texts_and_other_tables_are_refused():
    names = [f"c{number}" for number in range(21)]
    table = pd.DataFrame([(a, b, 1, 0.0) for a in names for b in names])
    table.columns = ["category", "other", "n_pairs", "similarity"]
    assert len(tlm.plots.plot_categories(table).data) == 1
    with pytest.raises(tlm.ModulesError, match="should be what probe_confusion or category_sim"):
        tlm.plots.plot_categories(table.drop(columns="similarity"))


def test_a_table_without_rows_and_two_tables_in_one_are_refused():
    table = pd.DataFrame({"category": ["a"], "predicted": ["a"], "n": [1], "share": [1.0]})
    with pytest.raises(tlm.ModulesError, match="and at least one; 0 of its 0 rows"):
        tlm.plots.plot_categories(table.iloc[:0])
    with pytest.raises(tlm.ModulesError, match=r"each pair of categories once.*1 of its 2 rows"):
        tlm.plots.plot_categories(pd.concat([table, table]))
