import numpy as np
import pytest

import tl_modules as tlm
from tests.tables.test_verdicts import effects_of

pytest.importorskip("plotly", reason="the extra 'viz' is not installed in this environment")


def test_each_module_stands_beside_its_controls_with_its_verdict():
    effects = effects_of({"own": 2.0}, {"p": 0.5}, {"p": 0.6}, {"shared": True})
    figure = tlm.plots.plot_selectivity(effects)
    controls, largest, *marks = figure.data
    assert list(controls.x) == [0.05] * 4
    assert list(controls.error_x.array) == [0.2] * 4
    assert list(largest.x) == [0.4] * 4
    assert [(mark.name, list(mark.y)) for mark in marks] == [
        ("selective", ["0"]),
        ("not beyond its controls", ["1", "2"]),
        ("shared by all", ["3"]),
    ]
    assert list(marks[0].x) == [1.75]
    assert (list(marks[0].error_x.array), list(marks[0].error_x.arrayminus)) == ([0.5], [0.5])
    looks = {(mark.marker.color, mark.marker.symbol) for mark in marks}
    assert len({colour for colour, _ in looks}) == len({symbol for _, symbol in looks}) == 3
    assert "1 of 4 modules is selective" in figure.layout.title.text
    assert "selectivity 1.75" in marks[0].hovertext[0]
    assert figure.layout.yaxis.autorange == "reversed"


def test_modules_name_the_rows(model, modules, prompts):
    effects = tlm.module_effects(model, modules, prompts, n_controls=2, progress=False)
    figure = tlm.plots.plot_selectivity(effects, modules=modules)
    names = set().union(*(mark.y for mark in figure.data[2:]))
    assert names == {f"{module.label}: {module.title}" for module in modules}
    assert figure.layout.xaxis.title.text == "selectivity (nats per token)"


def test_modules_that_were_not_tested_have_no_row_and_no_controls_no_bar():
    effects = effects_of(
        {"p": np.nan, "n": 0}, {"selectivity": np.nan, "category": "x", "p": np.nan}
    )
    effects[["selectivity_control_mean", "selectivity_control_max"]] = np.nan
    (mark,) = tlm.plots.plot_selectivity(effects).data
    assert (mark.name, list(mark.y)) == ("too few controls to say", ["0"])


def test_other_tables_are_refused():
    with pytest.raises(tlm.ModulesError, match="effects should have rows"):
        tlm.plots.plot_selectivity(effects_of({}).drop(columns="selectivity"))
