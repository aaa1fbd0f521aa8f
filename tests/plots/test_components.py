import pandas as pd
import pytest

import tl_modules as tlm

pytest.importorskip("plotly", reason="the extra 'viz' is not installed in this environment")


def rows_of(category, factor=1.0):
    rows = [
        ("module", "module 0", 100, 2.0, 0.5),
        ("module", "module 1", 50, 1.0, 0.75),
        ("head", "L0H0", 4, 0.25, 0.125),
        ("head", "L0H1", 4, 0.5, 0.25),
        ("resid", "L0 resid", 16, 4.0, float("nan")),
    ]
    columns = ["kind", "label", "n_units", "effect", "control_mean"]
    table = pd.DataFrame(rows, columns=columns).assign(category=category, control_std=0.25)
    table[["effect", "control_mean"]] *= factor
    return table.assign(
        ci_low=table["effect"] - 0.5, ci_high=table["effect"] + 1.0, metric="answer_logprob"
    )


@pytest.fixture
def table():
    return pd.concat([rows_of("math"), rows_of("code", -1.0)], ignore_index=True)


def test_each_kind_has_its_marks_beside_its_controls(table):
    figure = tlm.plots.plot_components(table)
    controls, *kinds = figure.data
    assert list(controls.y) == ["module 0", "module 1", "L0H1", "L0H0"]
    assert list(controls.x) == [0.5, 0.75, 0.25, 0.125]
    assert list(controls.error_x.array) == [0.5] * 4
    assert [(kind.name, list(kind.y), list(kind.x)) for kind in kinds] == [
        ("modules (2 of 2)", ["module 0", "module 1"], [2.0, 1.0]),
        ("heads (2 of 2)", ["L0H1", "L0H0"], [0.5, 0.25]),
        ("residual stream (1 of 1)", ["L0 resid"], [4.0]),
    ]
    assert list(kinds[0].error_x.array) == [1.0, 1.0]
    assert list(kinds[0].error_x.arrayminus) == [0.5, 0.5]
    assert len({(kind.marker.color, kind.marker.symbol) for kind in kinds}) == 3
    assert figure.layout.xaxis.title.text == "effect (nats)"
    assert "math" in figure.layout.title.text


def test_effects_per_unit_are_divided_with_their_intervals_and_controls(table):
    controls, modules, *_ = tlm.plots.plot_components(table, per_unit=True).data
    assert list(modules.x) == [0.02, 0.02]
    assert list(modules.error_x.array) == pytest.approx([0.01, 0.02])
    assert list(controls.x)[:2] == [0.005, 0.015]


def test_the_largest_of_each_kind_are_drawn(table):
    figure = tlm.plots.plot_components(table, category="code", n_shown=1)
    assert [(mark.name, list(mark.y)) for mark in figure.data[1:]] == [
        ("modules (1 of 2)", ["module 1"]),
        ("heads (1 of 2)", ["L0H0"]),
        ("residual stream (1 of 1)", ["L0 resid"]),
    ]


@pytest.mark.parametrize(
    ("options", "change", "said"),
    [
        ({"category": "art"}, {}, "category should be one of the table's, 'math', 'code'; got"),
        ({"n_shown": 0}, {}, "n_shown should be at least 1"),
        ({}, {"kind": "neuron"}, "kind should be one of module, core, head, mlp, resid"),
        ({}, {"label": "same"}, "each label once"),
    ],
)
def test_what_cannot_be_drawn_is_refused(table, options, change, said):
    with pytest.raises(tlm.ModulesError, match=said):
        tlm.plots.plot_components(table.assign(**change), **options)


def test_other_tables_are_refused(table):
    with pytest.raises(tlm.ModulesError, match=r"lacks \['n_units'\]. Pass what with_components"):
        tlm.plots.plot_components(table.drop(columns="n_units"))
