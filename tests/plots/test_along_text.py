import numpy as np
import pandas as pd
import pytest

import tl_modules as tlm

plot_along_text = tlm.plots.plot_along_text


@pytest.fixture(scope="module")
def values():
    """Three windows of four tokens of one text, and another text; module 0 likes the second."""
    index = pd.MultiIndex.from_tuples(
        [(0, 0), (0, 4), (0, 8), (1, 0)], names=["prompt", "position"]
    )
    return pd.DataFrame(
        {
            "token": ["<bos>the cat", " <b>", "</b> in", "dog"],
            "special": [False, False, False, True],
            0: [1.0, 4.0, 0.25, 9.0],
            1: [0.0, 100.0, 2.0, 9.0],
        },
        index=index,
    )


def test_a_colour_is_the_number_of_doublings_of_the_average(values):
    (trace,) = plot_along_text(values).data
    assert np.array(trace.z).tolist() == [[0, 2, -2], [-3, 3, 1]]
    assert (trace.zmin, trace.zmax) == (-3, 3)
    assert list(trace.x) == [0, 4, 8, 12]  # the windows' edges
    assert [cell[0] for cell in trace.customdata[1]] == [0, 100, 2]
    assert trace.customdata[0][1][1].strip() == "&lt;b&gt;"
    ticks = zip(trace.colorbar.tickvals, trace.colorbar.ticktext, strict=True)
    named = {-3: "1/8", -2: "1/4", -1: "1/2", 0: "1", 1: "2", 2: "4", 3: "8"}
    assert dict(ticks) == named


def test_the_scale_ends_where_the_values_do(values):
    table = values[["token", "special", 0]].replace({0: [1.0, 4.0, 0.25, 9.0]}, 1.2)
    (trace,) = plot_along_text(table).data
    assert (trace.zmin, trace.zmax) == (-1, 1)
    assert list(trace.colorbar.ticktext) == ["1/2", "1", "2"]


def test_modules_are_named_and_chosen(values, modules):
    table = values.assign(**{"2": 1.0}).rename(columns={"2": 2})
    figure = plot_along_text(table, modules[2])
    assert np.array(figure.data[0].z).tolist() == [[0, 0, 0]]
    assert list(figure.layout.yaxis.ticktext) == [f"2: {modules[2].category}"]
    assert list(plot_along_text(values).layout.yaxis.ticktext) == ["0", "1"]
    assert figure.layout.yaxis.autorange == "reversed"  # the first module on top


def test_special_tokens_have_no_colour(values):
    (trace,) = plot_along_text(values, prompt=1).data
    assert np.isnan(np.array(trace.z, dtype=float)).all()
    assert list(trace.x) == [0, 1]


def test_the_title_says_how_wide_a_window_is_where_the_table_tells(values):
    def title(**options):
        return plot_along_text(values, **options).layout.title.text

    assert title() == "Activity of modules along a text, at windows of 4 tokens"
    assert title(prompt=1) == "Activity of modules along a text"


def test_sections_begin_where_they_are_said_to(values):
    layout = plot_along_text(values, sections={"<i>first": 0, "second": 6}).layout
    assert [(line.x0, line.x1) for line in layout.shapes] == [(0, 0), (6, 6)]
    assert [name.x for name in layout.annotations] == [0, 6]
    assert "&lt;i&gt;first" in layout.annotations[0].text
    for start in (-1, 12):
        with pytest.raises(tlm.ModulesError, match=f"from position 0 to 11; 'x' begins at {start}"):
            plot_along_text(values, sections={"x": start})


def test_what_cannot_be_drawn_is_refused(values, modules):
    with pytest.raises(tlm.ModulesError, match="the table that token_values returned"):
        plot_along_text(values.reset_index())
    with pytest.raises(tlm.ModulesError, match=r"one of the table's 2 prompts, from 0; got 2"):
        plot_along_text(values, prompt=2)
    with pytest.raises(tlm.ModulesError, match=r"\[2\] are missing"):
        plot_along_text(values, modules)
