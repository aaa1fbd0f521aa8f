"""The figure of what is left of a concept and what it cost."""

import numpy as np
import pandas as pd
import pytest

import tl_modules as tlm
from tests.related.test_refusals import untyped

pytest.importorskip("plotly", reason="the extra 'viz' is not installed in this environment")


@pytest.fixture
def effects():
    rows = []
    for at, (target, prompts) in enumerate([("<b>", "near"), ("<b>", "far"), ("two", "near")]):
        row = {"label": target, "prompts": prompts, "auc_clean": 0.95}
        for name, value in (("auc", 0.6 + at / 10), ("lost", 0.25 * at)):
            row |= {name: value, f"{name}_ci_low": value - 0.05, f"{name}_ci_high": value + 0.1}
            row[f"{name}_control_mean"] = value / 2
        rows.append(row)
    return pd.DataFrame(rows)


def test_a_point_is_what_is_found_over_what_is_lost(effects):
    figure = tlm.plots.plot_concepts(effects)
    _, far, near = figure.data
    np.testing.assert_allclose(far.x, [0.125, 0.25])
    np.testing.assert_allclose(far.y, [0.35, 0.7])
    np.testing.assert_allclose(far.error_x.array, [0, 0.1])
    np.testing.assert_allclose(far.error_y.arrayminus, [0, 0.05])
    assert (far.xaxis, near.xaxis) == ("x2", "x")
    heights = [shape.y0 for shape in figure.layout.shapes]
    assert heights == [0.95, 0.5, 0.95, 0.5]


def test_names_are_text_and_each_target_is_named_once(effects):
    figure = tlm.plots.plot_concepts(effects)
    assert [trace.name for trace in figure.data] == ["&lt;b&gt;", "&lt;b&gt;", "two"]
    assert [trace.showlegend for trace in figure.data] == [True, False, True]
    colours = [trace.line.color for trace in figure.data]
    assert colours[0] == colours[1] != colours[2]


def test_another_table_is_refused(effects):
    with pytest.raises(tlm.ModulesError, match=r"it lacks \['lost'\]"):
        tlm.plots.plot_concepts(effects.drop(columns="lost"))
    with pytest.raises(tlm.ModulesError, match="it lacks rows"):
        tlm.plots.plot_concepts(effects.iloc[:0])


def test_what_is_no_table_is_refused():
    said = "effects should be a table; got None. Pass what concept_effects returned"
    with untyped(), pytest.raises(tlm.ModulesError, match=said):
        tlm.plots.plot_concepts(None)
