import re

import pandas as pd
import pytest

import tl_modules as tlm
from tl_modules.plots.tokens import token_spans


@pytest.fixture(scope="module")
def values():
    """Two prompts; module 0 likes <b>, module 1 nothing."""
    index = pd.MultiIndex.from_tuples(
        [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1)], names=["prompt", "position"]
    )
    return pd.DataFrame(
        {
            "token": ["<bos>", "the", "<b>", "<bos>", " cat"],
            "special": [True, False, False, True, False],
            0: [90.0, 1.0, 5.0, 90.0, 3.0],
            1: [0.5, 0.5, 0.5, 0.5, 0.5],
        },
        index=index,
    )


def test_colour_begins_at_1_and_is_full_at_the_strongest_ordinary_token(values):
    first, second = token_spans(values, 0)
    assert first.startswith("&lt;bos&gt;the<span")
    assert re.findall(r",([\d.]+)\)", first) == ["0.60"]
    assert re.findall(r",([\d.]+)\)", second) == ["0.30"]
    assert 'title="5.00">&lt;b&gt;</span>' in first
    assert token_spans(values, 1) == ["&lt;bos&gt;the&lt;b&gt;", "&lt;bos&gt; cat"]


def test_each_module_has_its_part_and_the_first_is_open(values):
    view = tlm.plots.plot_tokens(values)
    assert re.findall(r"<details( open)?><summary>module (\d)", view.html) == [
        (" open", "0"),
        ("", "1"),
    ]
    assert "strongest 5.0 times" in view.html
    assert "|activation| / the unit's mean" in view.html
    assert view._repr_html_() == view.html
    assert "<script" not in view.html


def test_modules_are_named_and_chosen(model, modules):
    table = tlm.token_values(model, modules, ["the cat sat"], progress=False)
    chosen = tlm.plots.plot_tokens(table, modules[1])
    assert chosen.html.count("<details") == 1
    assert f"module 1: {modules[1].category}" in chosen.html
    assert tlm.plots.plot_tokens(table, modules).html.count("<details") == 3


def test_it_is_saved_as_a_page(values, tmp_path):
    view = tlm.plots.plot_tokens(values)
    view.save(tmp_path / "tokens.html")
    assert view.html in (tmp_path / "tokens.html").read_text()
    assert "TokenView(" in repr(view)
    with pytest.raises(tlm.ModulesError, match="Cannot write"):
        view.save(tmp_path / "nowhere" / "tokens.html")


def test_what_cannot_be_drawn_is_refused(values, modules):
    with pytest.raises(tlm.ModulesError, match="the table that token_values returned"):
        tlm.plots.plot_tokens(values.reset_index())
    with pytest.raises(tlm.ModulesError, match=r"\[2\] are missing"):
        tlm.plots.plot_tokens(values, modules)
