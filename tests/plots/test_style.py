"""What all figures have in common: texts that can be read, and templates."""

import numpy as np
import plotly.graph_objects as go
import plotly.io
import pytest

import tl_modules as tlm
from tests.calls import setting
from tests.plots.contrast import contrast, contrasts, mark_contrasts
from tests.plots.every_figure import MADE, drawn
from tl_modules.plots.cells import texts
from tl_modules.plots.style import COLOURS, DIVERGING, GREY, INK, SEQUENTIAL, rooted_scale


@pytest.fixture(scope="module")
def made(model, prompts, acts, modules, tmp_path_factory):
    """What each figure is drawn of, made once."""
    these = setting(model, prompts, acts, modules, tmp_path_factory.mktemp("page"))
    found = {}

    def make(name):
        if name not in found:
            found[name] = MADE[name](these)
        return found[name]

    return make


def test_every_public_figure_is_here():
    figures = {name for name in tlm.plots.__all__ if name != "plot_tokens"}  # which makes HTML
    assert {name.split()[0] for name in MADE} == figures


@pytest.mark.parametrize("name", MADE)
@pytest.mark.parametrize("template", [None, "simple_white", "plotly_dark"])
def test_every_text_of_every_figure_has_the_contrast_of_level_aa(name, template, made):
    found = dict(contrasts(drawn(name, made(name), template=template)))
    assert min(found.values()) >= 4.5, found


@pytest.mark.parametrize("name", MADE)
@pytest.mark.parametrize("template", [None, "simple_white", "plotly_dark"])
def test_every_mark_and_line_has_the_contrast_of_level_aa(name, template, made):
    """WCAG 1.4.11: 3 to 1 for what is needed to understand a figure."""
    found = list(mark_contrasts(drawn(name, made(name), template=template)))
    assert [each for each in found if each[1] < 3] == []
    assert found or name in WITHOUT_MARKS


WITHOUT_MARKS = {"plot_categories", "plot_categories similarity", "plot_layers", "plot_along_text"}
"""Figures of a heat map alone, or with lines over it."""


def test_every_colour_of_a_group_has_the_contrast_of_level_aa():
    """Also those that the small figures above do not use."""
    for colour in {*COLOURS, GREY}:
        for behind in ("#ffffff", "#000000", "#111111"):
            assert contrast(colour, behind) >= 3, (colour, behind)


def test_the_check_of_marks_finds_faint_ones():
    figure = go.Figure(layout={"template": "simple_white"})
    figure.add_scatter(x=[0], y=[0], mode="markers", marker={"color": "#E69F00"})
    figure.add_scatter(x=[0], y=[0], mode="markers", marker={"color": GREY, "opacity": 0.75})
    error = {"array": [1], "color": "rgba(128, 128, 128, 0.35)"}
    figure.add_scatter(x=[0], y=[0], mode="markers", marker={"color": INK}, error_x=error)
    figure.add_scatter(x=[0], y=[0], mode="lines", line={"color": GREY}, opacity=0.5)
    found = dict(mark_contrasts(figure))
    assert found.pop("trace 2 marker") > 15
    assert {name: round(ratio, 1) for name, ratio in found.items()} == {
        "trace 0 marker": 2.3,
        "trace 1 marker": 2.6,
        "trace 2 error_x": 1.5,
        "trace 3 line": 1.8,
    }


@pytest.mark.parametrize("scale", [DIVERGING, SEQUENTIAL, "rooted"], ids=str)
def test_a_text_can_be_read_in_a_cell_of_any_colour(scale):
    values = np.linspace(-1, 1, 201)[None]
    stops = rooted_scale() if scale == "rooted" else scale
    said = np.full(values.shape, "0", dtype=object)
    figure = go.Figure(go.Heatmap(z=values, zmin=-1, zmax=1, colorscale=stops))
    figure.add_trace(texts(values, said, stops, (-1.0, 1.0)))
    figure.update_layout(template="simple_white")
    found = [ratio for where, ratio in contrasts(figure) if where.startswith("cell")]
    assert len(found) == 201
    assert min(found) >= 4.5


def test_the_check_of_contrast_finds_grey_text():
    grey = go.Figure(layout={"template": "simple_white", "title": {"font": {"color": "#808080"}}})
    assert dict(contrasts(grey))["layout.title.font"] == pytest.approx(3.95, abs=0.01)
    assert contrast("#ffffff", "#000000") == pytest.approx(21)


@pytest.mark.parametrize("name", MADE)
def test_every_figure_takes_a_template(name, made):
    usual, dark = (drawn(name, made(name), template=each) for each in (None, "plotly_dark"))
    assert dark.layout.template == plotly.io.templates["plotly_dark"]
    assert usual.layout.template.layout.paper_bgcolor == "#ffffff"
    for figure in (usual, dark):
        # What a template says would not hold if the figure said it too.
        for given in ("paper_bgcolor", "plot_bgcolor", "font.color", "colorway"):
            assert figure.layout[given] is None, given
        axes = [axis for axis in figure.layout if axis[1:5] == "axis"]
        assert all(figure.layout[axis].gridcolor is None for axis in axes)
        assert all(figure.layout[axis].automargin for axis in axes)
    # Colours that mean something, and sizes, stay.
    assert dark.update_layout(template=None) == usual.update_layout(template=None)


def test_a_template_may_be_an_object(made):
    own = go.layout.Template(layout={"font": {"family": "Times", "size": 9}})
    figure = drawn("plot_layers", made("plot_layers"), template=own)
    assert figure.layout.template == own


@pytest.mark.parametrize("wrong", ["no_such", 3, {"layout": {"no_such": 1}}])
def test_a_template_that_plotly_does_not_know_is_refused(wrong, made):
    for name in ("plot_layers", "plot_selectivity"):
        with pytest.raises(tlm.ModulesError, match="name of a plotly template") as refusal:
            drawn(name, made(name), template=wrong)
        assert "plotly.io.templates" in str(refusal.value)
