"""The figure of what targets do and what else they cost."""

import numpy as np
import pandas as pd
import pytest

import tl_modules as tlm
from tests.causal.test_effects import two_modules
from tl_modules.plots.costs import _name_positions

pytest.importorskip("plotly", reason="the extra 'viz' is not installed in this environment")


@pytest.fixture
def effects():
    rows = []
    for module, own in ((0, "a"), ("<b>shift</b>", "b")):
        for at, category in enumerate("abc"):
            number = len(rows)
            effect = 1.0 + number if category == own else 0.1 * number
            rows.append(
                {
                    "module": module,
                    "category": category,
                    "own": category == own,
                    "effect": effect,
                    "ci_low": effect - 0.25,
                    "ci_high": effect + 0.5,
                    "control_mean": 0.01 * at,
                    "p_bh": 0.5,
                }
            )
    return pd.DataFrame(rows)


def test_a_point_is_the_own_effect_over_the_mean_of_the_others(effects):
    module, shift = tlm.plots.plot_costs(effects).data
    np.testing.assert_allclose(module.x, [0.015, 0.15])
    np.testing.assert_allclose(module.y, [0.0, 1.0])
    np.testing.assert_allclose(shift.x, [0.01, 0.4])
    np.testing.assert_allclose(shift.y, [0.01, 5.0])
    np.testing.assert_allclose(shift.error_y.array, [0, 0.5])
    np.testing.assert_allclose(shift.error_y.arrayminus, [0, 0.25])
    (line,) = tlm.plots.plot_costs(effects).layout.shapes
    assert (line.x0, line.y0, line.x1, line.y1) == (0, 0, 5, 5)


def test_names_are_text_and_modules_are_named(effects, acts):
    assert [trace.name for trace in tlm.plots.plot_costs(effects).data] == [
        "0",
        "&lt;b&gt;shift&lt;/b&gt;",
    ]
    modules = two_modules(acts, np.zeros(36, dtype=int))
    first, second = (trace.name for trace in tlm.plots.plot_costs(effects, modules=modules).data)
    assert first == f"0: {modules[0].category}"
    assert second == "&lt;b&gt;shift&lt;/b&gt;"
    assert len(tlm.plots.plot_effects(effects, modules=modules).layout.yaxis.ticktext) == 2
    with pytest.raises(tlm.ModulesError, match=r"\[7\] are missing"):
        tlm.plots.plot_costs(effects.replace({"module": {0: 7}}), modules=modules)


@pytest.mark.parametrize("rows", [slice(1, 3), slice(0, 1)])
def test_a_table_without_own_and_others_is_refused(effects, rows):
    with pytest.raises(
        tlm.ModulesError, match="own category and another category; no target has both"
    ):
        tlm.plots.plot_costs(effects.iloc[rows])


def test_a_report_is_of_modules_alone(model, modules, prompts, tmp_path):
    table = tlm.module_effects(model, modules, prompts, n_controls=2, progress=False)
    table["module"] = table["module"].astype(object).replace({2: "eigenshift"})
    with pytest.raises(tlm.ModulesError, match=r"it has rows of \['eigenshift'\]"):
        tlm.write_report(tmp_path / "r.html", modules, effects=table)


def test_names_stay_inside_the_figure(effects):
    figure = tlm.plots.plot_costs(effects)
    traces = [trace for trace in figure.data if trace.text]
    farthest = max(traces, key=lambda trace: trace.x[1])
    nearest = min(traces, key=lambda trace: trace.x[1])
    assert farthest.textposition.endswith("left")
    assert nearest.textposition.endswith("right")
    assert not any(trace.cliponaxis for trace in traces)


def test_a_name_stands_away_from_the_nearest_point():
    close = np.array([[0.0, 0.0], [0.5, 0.5], [0.52, 0.55], [1.0, 1.0]])
    assert _name_positions(close) == ["bottom right", "bottom left", "top right", "top left"]
    assert _name_positions(close[:1]) == ["top right"]
    assert _name_positions(np.zeros((2, 2))) == ["top right"] * 2
