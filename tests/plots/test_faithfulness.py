import pandas as pd
import pytest

import tl_modules as tlm

pytest.importorskip("plotly", reason="the extra 'viz' is not installed in this environment")


@pytest.fixture
def table():
    shares = [0.01, 0.1, 1.0]
    rows = pd.DataFrame({"n_units": [1, 10, 100], "share": shares})
    mine = rows.assign(ranking="mine", faithfulness=[0.5, 0.9, 1.0])
    random = rows.assign(ranking="random", faithfulness=[0.0, 0.1, 1.0])
    random = random.assign(lowest=[-0.1, 0.0, 1.0], highest=[0.1, 0.3, 1.0])
    return pd.concat([mine, random], ignore_index=True)


def test_each_ranking_is_a_line_and_random_orders_have_a_band(table):
    figure = tlm.plots.faithfulness_curve(table)
    mine, band, random = figure.data
    assert (mine.name, random.name) == ("mine", "random")
    assert list(mine.x) == [0.01, 0.1, 1.0]
    assert list(mine.y) == [0.5, 0.9, 1.0]
    assert list(band.y) == [0.1, 0.3, 1.0, 1.0, 0.0, -0.1]
    assert list(band.x) == [0.01, 0.1, 1.0, 1.0, 0.1, 0.01]
    assert mine.line.color != random.line.color
    assert figure.layout.xaxis.type == "log"
    assert [shape.y0 for shape in figure.layout.shapes] == [0, 1]


def test_what_cannot_be_drawn_is_refused(table):
    with pytest.raises(tlm.ModulesError, match=r"it lacks \['lowest'\]. Pass curves.table"):
        tlm.plots.faithfulness_curve(table.drop(columns="lowest"))
