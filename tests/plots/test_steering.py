import numpy as np
import pandas as pd
import pytest

import tl_modules as tlm

pytest.importorskip("plotly", reason="the extra 'viz' is not installed in this environment")


@pytest.fixture
def table():
    """Two modules at two factors, in falling order; the second module has no controls."""
    rows = pd.DataFrame({"module": [0, 0, 1, 1], "factor": [3.0, 0.5, 3.0, 0.5]})
    rows["steers"] = [True, False, False, False]
    for at, name in enumerate(("score_rise", "selectivity", "lost")):
        values = np.array([0.3, 0.1, -0.2, 0.0]) + at
        ends = {"_ci_low": values - 0.05, "_ci_high": values + 0.1}
        means = {"_control_mean": [at, at, np.nan, np.nan], "_control_std": [0.5, 0.5, None, None]}
        of_name = {"": values, **ends, **means}
        rows = rows.assign(**{f"{name}{end}": each for end, each in of_name.items()})
    rows.attrs["sentence"] = "Module 0 steers at 3."
    return rows


def test_each_module_has_three_panels_over_the_factor_with_its_controls_band(table):
    figure = tlm.plots.plot_steering(table)
    assert len(figure.data) == 3 * 2 + 3  # three bands, of the module that has controls
    bands, lines = figure.data[:6:2], figure.data[1:6:2]
    for at, (band, line) in enumerate(zip(bands, lines, strict=True)):
        assert list(band.x) == [0.5, 3, 3, 0.5]
        assert list(band.y) == [at + 1, at + 1, at - 1, at - 1]
        assert list(line.x) == [0.5, 3]
        assert list(line.y) == pytest.approx([0.1 + at, 0.3 + at])
        assert list(line.error_y.array) == pytest.approx([0.1, 0.1])
        assert list(line.error_y.arrayminus) == pytest.approx([0.05, 0.05])
        assert list(line.marker.symbol) == ["circle", "diamond"]
    assert {line.xaxis for line in lines} == {"x", "x3", "x5"}
    titles = [figure.layout[name].title.text for name in ("yaxis", "yaxis3", "yaxis5")]
    assert titles == ["score, rise", "own - other loss", "fluency lost"]
    assert figure.layout.title.text == "Module 0 steers at 3."
    assert [note.text for note in figure.layout.annotations] == ["0", "1"]
    assert len(figure.layout.shapes) == 6  # the line of what changes nothing, in each panel


def test_what_cannot_be_drawn_is_refused(table):
    with pytest.raises(tlm.ModulesError, match=r"lacks \['lost'\]. Pass tlm.steering_effects"):
        tlm.plots.plot_steering(table.drop(columns="lost"))
    with pytest.raises(tlm.ModulesError, match="this one has 0 rows"):
        tlm.plots.plot_steering(table.iloc[:0])
