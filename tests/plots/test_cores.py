import numpy as np
import pandas as pd
import pytest

import tl_modules as tlm

pytest.importorskip("plotly", reason="the extra 'viz' is not installed in this environment")


@pytest.fixture
def table():
    rows = []
    for module, whole in ((0, 40), (1, 15)):
        for ranking in ("core", "random"):
            for size in (5, 10, 20, whole) if module == 0 else (5, 10, whole):
                value = (1.0 + module) * size / (1 if ranking == "core" else 2)
                row = {"module": module, "category": "ab"[module], "ranking": ranking}
                row |= {"n_units": size, "selectivity": value, "chosen": False}
                row |= {"selectivity_ci_low": value - 1, "selectivity_ci_high": value + 2}
                row |= {"layer_selectivity": 0.5 if ranking == "core" else np.nan}
                rows.append(row)
    found = pd.DataFrame(rows)
    found.loc[[2, 9], "chosen"] = True
    return found


def test_the_mean_over_modules_takes_a_smaller_module_as_a_whole(table):
    core, random, layer = tlm.plots.core_curve(table).data
    assert (core.name, random.name, layer.name) == ("core", "random", "layer controls")
    assert list(core.x) == [5, 10, 20, 40]
    assert list(core.y) == [(5 + 10) / 2, (10 + 20) / 2, (20 + 30) / 2, (40 + 30) / 2]
    assert list(random.y) == [value / 2 for value in core.y]
    assert list(layer.y) == [0.5] * 4


def test_the_controls_lie_in_a_band_from_the_smallest_to_the_largest(table):
    is_core = table["ranking"] == "core"
    table["layer_selectivity_min"] = np.where(is_core, -0.25, np.nan)
    table["layer_selectivity_max"] = np.where(is_core, 0.75 + table["module"], np.nan)
    *_, band, layer = tlm.plots.core_curve(table).data
    assert layer.name == "layer controls"
    assert list(band.x) == [5, 10, 20, 40, 40, 20, 10, 5]
    assert list(band.y) == [1.25] * 4 + [-0.25] * 4
    assert (band.fill, band.showlegend) == ("toself", False)


def test_one_module_has_intervals_and_its_core(table):
    core, _, _, chosen = tlm.plots.core_curve(table, module=0).data
    assert list(core.x) == [5, 10, 20, 40]
    assert list(core.error_y.array) == [2] * 4
    assert list(core.error_y.arrayminus) == [1] * 4
    assert (list(chosen.x), list(chosen.y)) == ([20], [20.0])


def test_the_specificity_is_the_ratio_of_the_means(table):
    table = table.assign(effect=4.0, others=[2.0] * 8 + [0.0] * 6, specificity=np.nan)
    (core, _) = tlm.plots.core_curve(table, value="specificity").data
    assert list(core.y) == [4.0] * 4


def test_what_cannot_be_drawn_is_refused(table):
    with pytest.raises(tlm.ModulesError, match=r"it lacks \['ranking'\]. Pass found.table"):
        tlm.plots.core_curve(table.drop(columns="ranking"))
    with pytest.raises(tlm.ModulesError, match=r"no module 7; it has \[0, 1\]"):
        tlm.plots.core_curve(table, module=7)
