import numpy as np
import pytest

import tl_modules as tlm
from tests.tables.test_verdicts import effects_of

pytest.importorskip("plotly", reason="the extra 'viz' is not installed in this environment")


def test_each_module_stands_beside_its_controls_with_its_verdict():
    effects = effects_of({"own": 2.0}, {"p": 0.5}, {"p": 0.6}, {"shared": True})
    texts = ["0.25 -0.5", None] * 3 + [None, None]  # the last module's controls are not known
    figure = tlm.plots.plot_selectivity(effects.assign(selectivity_controls=texts))
    points, bars, largest, *marks = figure.data
    assert list(points.x) == [-0.5, 0.25] * 3
    assert np.floor(points.y).tolist() == [0, 0, 1, 1, 2, 2]
    assert list(bars.x) == [0.05]
    assert list(bars.error_x.array) == [0.2]
    assert np.floor(bars.y).tolist() == [3]
    assert list(largest.x) == [0.4] * 4
    assert [(mark.name, list(mark.y)) for mark in marks] == [
        ("selective", [0]),
        ("shared by all", [3]),
        ("not beyond its controls", [1, 2]),
    ]
    assert list(marks[0].x) == [1.75]
    assert (list(marks[0].error_x.array), list(marks[0].error_x.arrayminus)) == ([0.5], [0.5])
    looks = {(mark.marker.color, mark.marker.symbol) for mark in marks}
    assert len({colour for colour, _ in looks}) == len({symbol for _, symbol in looks}) == 3
    assert "1 of 4 modules is selective" in figure.layout.title.text
    assert "selectivity 1.75" in marks[0].hovertext[0]
    assert figure.layout.yaxis.range[0] > figure.layout.yaxis.range[1]  # the first on top
    assert figure.layout.xaxis.title.text.endswith(
        "2 modules have the smallest p that 99 controls can give: 0.01 before correction"
    )


def test_a_table_of_an_earlier_version_gives_the_controls_mean_and_spread():
    bars, largest, _ = tlm.plots.plot_selectivity(effects_of({}, {"p": 0.02})).data
    assert list(bars.x) == [0.05] * 2
    assert list(bars.error_x.array) == [0.2] * 2
    assert list(largest.x) == [0.4] * 2


def test_of_very_many_controls_some_are_drawn_with_the_smallest_and_the_largest():
    modules = [{"p": 0.5, "n": 999}] * 60
    text = " ".join(map(str, range(999)))
    effects = effects_of(*modules).assign(selectivity_controls=[text, None] * 60)
    points = tlm.plots.plot_selectivity(effects).data[0]
    assert len(points.x) == 3000
    assert (min(points.x), max(points.x)) == (0, 998)
    assert len(set(points.y[:50])) == 50


def test_a_figure_of_cores_says_so_in_its_title_and_on_its_axis():
    effects = effects_of({"p": 0.01}, {"p": 0.5})
    for of, title, axis in (
        ("modules", "1 of 2 modules is selective", "module"),
        ("cores", "The core of 1 of 2 modules is selective", "core of module"),
    ):
        layout = tlm.plots.plot_selectivity(effects, of=of).layout
        assert layout.title.text.startswith(title)
        assert layout.yaxis.title.text == axis


def test_modules_name_the_rows(model, modules, prompts):
    effects = tlm.module_effects(model, modules, prompts, n_controls=2, progress=False)
    figure = tlm.plots.plot_selectivity(effects, modules=modules)
    axis = figure.layout.yaxis
    named = dict(zip(axis.tickvals, axis.ticktext, strict=True))
    tested = tlm.verdicts(effects).dropna(subset="selectivity")["module"]
    assert list(named.values()) == [f"{each}: {modules[each].title}" for each in tested]
    for mark in figure.data[2:]:
        for row, said in zip(mark.y, mark.hovertext, strict=True):
            assert said.startswith(f"{named[row]}<br>")
    controls = tlm.control_selectivities(effects)
    np.testing.assert_allclose(np.sort(figure.data[0].x), np.sort(controls["selectivity"]))
    assert "(nats per token)" in figure.layout.xaxis.title.text


def test_modules_that_were_not_tested_have_no_row_and_no_controls_no_bar():
    effects = effects_of(
        {"p": np.nan, "n": 0}, {"selectivity": np.nan, "category": "x", "p": np.nan}
    )
    effects[["selectivity_control_mean", "selectivity_control_max"]] = np.nan
    (mark,) = tlm.plots.plot_selectivity(effects).data
    assert (mark.name, list(mark.y)) == ("too few controls to say", [0])


def test_other_tables_are_refused():
    with pytest.raises(tlm.ModulesError, match="effects should have rows"):
        tlm.plots.plot_selectivity(effects_of({}).drop(columns="selectivity"))
