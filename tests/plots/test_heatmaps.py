import sys
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from plotly.colors import sample_colorscale

import tl_modules as tlm
from tests.conftest import tiny_model, unsaid
from tests.interpret.made_by_hand import layered, module_set
from tests.report.reading import check_readable, names_overlap
from tl_modules.plots.style import DIVERGING, module_name


@pytest.fixture(scope="module")
def modules():
    """Module 0 in the first third of six layers, 1 in the middle, 2 in the last, 3 in all."""
    units = layered([20] * 6)
    labels = np.where(units.index < 8, 3, np.asarray(units.layers)[units.hook] // 2)
    return module_set(labels, units, [0, 1, 2], ["math", "<b>code</b>", "w" * 60])


@pytest.fixture(scope="module")
def many():
    """100 modules in 40 layers."""
    units = layered([200] * 40)
    return module_set(np.random.default_rng(0).integers(0, 100, len(units)), units)


@pytest.fixture(scope="module")
def effects():
    """Three modules and three categories, as module_effects tabulates them."""
    names = ["math", "<b>code</b>", "w" * 60]
    return pd.DataFrame(
        {
            "module": np.repeat([0, 1, 2], 3),
            "category": names * 3,
            "own": np.eye(3, dtype=bool).ravel(),
            "effect": [0.9, 0.1, -0.2, 0.3, 0.8, 0.1, 0.2, 0.1, 0.7],
            "control_mean": 0.25,
            "p_bh": [0.01, 0.5, 0.9, 0.5, 0.05, 0.9, 0.9, 0.9, 0.06],
        }
    )


def test_a_modules_name_is_its_topics_label_or_else_its_category(modules):
    module = modules[0]
    assert module_name(module) == "0: math"
    assert module_name(modules[1]) == "1: &lt;b&gt;code&lt;/b&gt;"
    assert module_name(modules[2]) == f"2: {'w' * 39}…"
    assert module_name(modules[3]) == "3"
    object.__setattr__(module, "topic", None)
    assert module_name(module) == "0: math"
    object.__setattr__(module, "topic", tlm.Topic("sums & <products>", {}, (), ()))
    assert module_name(module) == "0: sums &amp; &lt;products&gt;"


def test_layers_are_drawn_as_the_log_of_their_ratio_to_chance(modules):
    figure = tlm.plots.plot_layers(modules)
    (heatmap,) = figure.data
    ratio = tlm.module_layers(modules).pivot(index="module", columns="layer", values="ratio")
    np.testing.assert_allclose(heatmap.customdata[..., 0].astype(float), ratio)
    assert heatmap.customdata[1, 2].tolist()[1:3] == [12, 4]
    assert heatmap.customdata[1, 2].tolist()[4:] == [module_name(modules[1]), "2"]
    limit = np.log2(3)
    expected = np.vstack([np.repeat(np.where(np.eye(3), limit, -limit), 2, axis=1), np.zeros(6)])
    np.testing.assert_allclose(heatmap.z, expected)
    assert (heatmap.zmin, heatmap.zmax) == (-limit, limit)
    assert list(heatmap.x) == [0, 1, 2, 3, 4, 5]
    assert list(heatmap.colorbar.ticktext) == ["1/2", "1", "2"]
    assert figure.layout.yaxis.ticktext[0] == "0: math"


def test_layers_that_are_not_read_leave_no_gap():
    units = layered((6, 6, 6), layers=(3, 11, 20))
    figure = tlm.plots.plot_layers(module_set(units.hook, units))
    assert list(figure.data[0].x) == list(figure.layout.xaxis.tickvals) == [0, 1, 2]
    assert list(figure.layout.xaxis.ticktext) == ["3", "11", "20"]


def test_a_module_without_units_is_left_blank(modules):
    emptied = module_set(np.where(modules.unit_labels == 2, 3, modules.unit_labels), modules.units)
    (heatmap,) = tlm.plots.plot_layers(emptied).data
    assert np.isnan(heatmap.z[2]).all()
    assert np.isfinite(heatmap.z[[0, 1, 3]]).all()


def test_effects_are_drawn_with_their_marks(effects):
    figure = tlm.plots.plot_effects(effects)
    heatmap, said, controls, said_of_controls = figure.data
    np.testing.assert_array_equal(heatmap.z, effects["effect"].to_numpy().reshape(3, 3))
    np.testing.assert_array_equal(controls.z, np.full((3, 3), 0.25))
    texts = ["0.90*", "0.10", "-0.20", "0.30", "0.80*", "0.10", "0.20", "0.10", "0.70"]
    assert list(zip(said.y, said.x, said.text, strict=True)) == [
        (*divmod(cell, 3), text) for cell, text in enumerate(texts)
    ]
    assert said_of_controls.text.tolist() == ["0.25"] * 9
    for each in (heatmap, controls):  # one scale
        assert (each.zmin, each.zmax) == (-0.9, 0.9)
        assert each.colorscale == heatmap.colorscale
    assert (heatmap.showscale, controls.showscale) == (False, True)
    assert heatmap.customdata[1, 0].tolist() == [0.3, 0.25, 0.5, "1", "math"]
    frames = [(s.xref, s.x0, s.x1, s.y0, s.y1) for s in figure.layout.shapes]
    assert frames == [
        (axis, k - 0.5, k + 0.5, k - 0.5, k + 0.5) for axis in ("x", "x2") for k in range(3)
    ]
    assert [note.text for note in figure.layout.annotations] == [
        "each module ablated",
        "its controls ablated (mean)",
    ]
    shown = ["math", "&lt;b&gt;code&lt;/b&gt;", "w" * 39 + "…"]
    assert list(figure.layout.xaxis.ticktext) == shown
    assert "nats per token" in heatmap.colorbar.title.text
    accuracy = tlm.plots.plot_effects(effects, unit="share of answers").data[0]
    assert "share of answers" in accuracy.colorbar.title.text


def test_a_table_without_controls_gives_one_heat_map(effects):
    heatmap, _ = tlm.plots.plot_effects(effects.assign(control_mean=np.nan)).data
    assert heatmap.showscale


def test_one_scale_holds_the_controls_larger_effects(effects):
    heatmap, _, controls, _ = tlm.plots.plot_effects(effects.assign(control_mean=2.0)).data
    assert heatmap.zmax == controls.zmax == 2.0


@pytest.mark.parametrize(
    ("p_values", "n_controls", "said"),
    [
        ([0.1, 0.3, 0.5] * 3, 9, "3 cells have the smallest p that 9 controls<br>"),
        ([0.05, 0.1, 0.5] * 3, 19, "19 controls<br>can give: 0.05 before correction"),
        ([0.05, 0.1, 0.5] * 3, 259, None),  # multiples of 0.05 are not thereby of 19 controls
        ([0.01] + [0.23] * 8, 99, "1 cell has the smallest p that 99 controls<br>"),
        ([0.05, 0.1, 0.23] * 3, 99, None),
        ([np.nan] * 9, 0, None),
    ],
)
def test_the_smallest_p_of_so_many_controls_is_said_where_a_cell_has_it(
    effects, p_values, n_controls, said
):
    # As many controls as the tests of selectivity needed; fewer of them may test each cell.
    table = effects.assign(p_value=p_values, n_controls=999, n_cell_controls=n_controls)
    title = tlm.plots.plot_effects(table).layout.xaxis2.title.text
    assert (said in title) if said else (title == "category of prompts")


def test_one_large_effect_leaves_the_others_colour(effects):
    scale = dict(tlm.plots.plot_effects(effects).data[0].colorscale)
    assert scale[0.5] == "rgb(247, 247, 247)"
    assert scale[0.0] == "rgb(33, 102, 172)"
    assert scale[1.0] == "rgb(178, 24, 43)"
    # A quarter of the largest effect has half of its strength of colour.
    assert scale[0.5 + 0.5 / 4] == sample_colorscale(DIVERGING, [0.75])[0]


def test_rows_in_any_order_make_one_figure(effects):
    shuffled = effects.sample(frac=1, random_state=0)
    heatmap = tlm.plots.plot_effects(shuffled).data[0]
    names = list(dict.fromkeys(shuffled["category"]))
    labels = list(dict.fromkeys(shuffled["module"]))
    for row in effects.itertuples():
        assert heatmap.z[labels.index(row.module), names.index(row.category)] == row.effect


def test_effects_take_the_modules_names(effects, modules):
    assert list(tlm.plots.plot_effects(effects).layout.yaxis.ticktext) == ["0", "1", "2"]
    named = tlm.plots.plot_effects(effects, modules=modules).layout.yaxis.ticktext
    assert list(named) == [module_name(modules[k]) for k in range(3)]


def test_modules_that_every_category_needs_are_named_so(effects, modules):
    found = effects.assign(shared_by_all=effects["module"] == 1)
    named = tlm.plots.plot_effects(found, modules=modules).layout.yaxis.ticktext
    assert named[1] == "1: shared by all"
    assert named[0] == module_name(modules[0])
    assert list(tlm.plots.plot_effects(found).layout.yaxis.ticktext) == [
        "0",
        "1: shared by all",
        "2",
    ]


def test_a_users_name_stands_before_shared_by_all(effects, modules):
    topics = [tlm.Topic(f"sums {k}", {}, (), (), label_is_given=k == 1) for k in range(4)]
    found = effects.assign(shared_by_all=effects["module"] < 2)
    named = replace(modules, topics=tuple(topics)).with_effects(found)
    assert [named[0].title, named[1].title] == ["shared by all", "sums 1"]
    shown = tlm.plots.plot_effects(found, modules=named).layout.yaxis.ticktext
    assert list(shown) == ["0: shared by all", "1: sums 1", "2: sums 2"]


def test_an_effect_that_is_not_known_is_left_blank(effects):
    unknown = effects.assign(effect=effects["effect"].where(effects["module"] != 1))
    heatmap, said, *_ = tlm.plots.plot_effects(unknown).data
    assert 1 not in said.y
    assert np.isnan(heatmap.z[1]).all()
    assert heatmap.zmax == 0.9


@unsaid
def test_what_module_effects_returns_is_drawn(acts):
    found = tlm.discover(acts, 2)
    table = tlm.module_effects(
        tiny_model(),
        found,
        pd.DataFrame({"prompt": ["the cat sat", "one plus two"], "category": ["x", "y"]}),
        n_controls=2,
        progress=False,
    )
    heatmap, _, controls, _ = tlm.plots.plot_effects(table, modules=found).data
    np.testing.assert_allclose(heatmap.z, table["effect"].to_numpy().reshape(2, 2))
    np.testing.assert_allclose(controls.z, table["control_mean"].to_numpy().reshape(2, 2))


@pytest.fixture(scope="module")
def covered():
    """Two modules of six samples: the first is all <b>a</b>, the second mixed."""
    units = layered([4, 4])
    names = ["<b>a</b>"] * 3 + ["b", "c", "<b>a</b>"]
    found = module_set(np.arange(8) % 2, units, [0, 0, 0, 1, 1, 1], names)
    values = np.random.default_rng(0).normal(size=(6, 8))
    acts = tlm.ActivationMatrix(values, units, found.samples).zscore()
    return found, tlm.coverage(found, acts, n_permutations=9)


def test_coverage_is_drawn_as_shares_of_the_modules_samples(covered):
    found, table = covered
    figure = tlm.plots.plot_coverage(table, modules=found)
    heatmap, said = figure.data
    np.testing.assert_allclose(heatmap.z, [[1, 0, 0], [1 / 3, 1 / 3, 1 / 3]])
    assert list(zip(said.y, said.x, said.text, strict=True)) == [
        (0, 0, "100%"),
        *((1, column, "33%") for column in range(3)),
    ]
    assert heatmap.customdata[1, 0].tolist()[1:3] == [1 / 4, 1]
    assert heatmap.customdata[0, 0].tolist()[4:] == [
        "0: &lt;b&gt;a&lt;/b&gt;",
        "&lt;b&gt;a&lt;/b&gt;",
    ]
    (frame,) = figure.layout.shapes
    assert (frame.x0, frame.x1, frame.y0, frame.y1) == (-0.5, 0.5, -0.5, 0.5)
    assert figure.layout.title.text.startswith("1 of 3 categories")
    check_readable(figure)
    assert list(tlm.plots.plot_coverage(table).layout.yaxis.ticktext) == ["0", "1"]
    with pytest.raises(tlm.ModulesError, match=r"\[0\] are missing"):
        tlm.plots.plot_coverage(table, modules=[found[1]])


def test_coverage_of_100_modules_has_no_texts():
    units = layered([200, 200])
    found = module_set(np.arange(400) % 100, units, np.arange(200) % 100, ["a", "b"] * 100)
    values = np.random.default_rng(0).normal(size=(200, 400))
    acts = tlm.ActivationMatrix(values, units, found.samples).zscore()
    figure = tlm.plots.plot_coverage(tlm.coverage(found, acts, n_permutations=1))
    assert len(figure.data) == 1
    assert not names_overlap(figure, 100)


def test_the_figures_say_what_they_show_on_light_and_on_dark_pages(modules, effects):
    for figure in (tlm.plots.plot_layers(modules), tlm.plots.plot_effects(effects)):
        check_readable(figure)
        assert figure.data[0].colorbar.title.text


def test_names_of_100_modules_do_not_overlap(many):
    layers = tlm.plots.plot_layers(many)
    assert np.shape(layers.data[0].z) == (100, 40)
    table = pd.DataFrame(
        {
            "module": np.repeat(np.arange(100), 7),
            "category": [f"c{c}" for c in range(7)] * 100,
            "own": False,
            "effect": np.linspace(0, 1, 700),
            "control_mean": 0.0,
            "p_bh": 1.0,
        }
    )
    effects = tlm.plots.plot_effects(table)
    assert np.shape(effects.data[0].z) == (100, 7)
    assert effects.data[1].text.size == 0  # no room for numbers
    for figure in (layers, effects):
        assert figure.layout.height < 1500
        assert not names_overlap(figure, 100)
        assert len(figure.layout.yaxis.ticktext) >= 33


def test_what_cannot_be_drawn_is_refused(modules, effects):
    with pytest.raises(tlm.ModulesError, match="at least two layers"):
        tlm.plots.plot_layers(module_set(np.arange(8) % 2, layered((8,))))
    with pytest.raises(tlm.ModulesError, match=r"this table has 9 rows and lacks \['p_bh'\]"):
        tlm.plots.plot_effects(effects.drop(columns="p_bh"))
    with pytest.raises(tlm.ModulesError, match="this table has 0 rows"):
        tlm.plots.plot_effects(effects.head(0))
    with pytest.raises(tlm.ModulesError, match=r"the table's modules; \[1, 2\] are missing"):
        tlm.plots.plot_effects(effects, modules=[modules[0]])
    twice = pd.concat([effects, effects])
    with pytest.raises(tlm.ModulesError, match="each module and category once"):
        tlm.plots.plot_effects(twice)


def test_without_plotly_the_remedy_is_named(modules, effects, monkeypatch):
    monkeypatch.setitem(sys.modules, "plotly", None)
    for draw in (lambda: tlm.plots.plot_layers(modules), lambda: tlm.plots.plot_effects(effects)):
        with pytest.raises(tlm.ModulesError, match="pip install plotly"):
            draw()
