import numpy as np
import pandas as pd
import pytest

import tl_modules as tlm
from tests.planted import planted_matrix
from tests.report.reading import check_readable
from tl_modules.interpret.landscape import landscape


@pytest.fixture(scope="module")
def acts():
    values, labels, _ = planted_matrix(60, 90, 3, seed=0, strength=1.5)
    names = ["<b>a</b>", "b", None]
    frame = pd.DataFrame(
        {
            "prompt": [f"<script>{row} " + "long " * 200 for row in range(60)],
            "category": [names[label] for label in labels],
        }
    )
    return tlm.ActivationMatrix.from_arrays(values, samples=frame)


@pytest.fixture(scope="module")
def modules(acts):
    return tlm.discover(acts, 3)


def test_every_prompt_is_drawn_in_its_categorys_colour(modules, acts):
    *groups, middles = tlm.plots.plot_landscape(modules, acts).data
    points = landscape(modules, acts).points
    assert [group.name for group in groups] == ["&lt;b&gt;a&lt;/b&gt;", "b", "none"]
    for group, category in zip(groups, ["<b>a</b>", "b", None], strict=True):
        own = points["category"].isna() if category is None else points["category"] == category
        np.testing.assert_allclose(group.x, points.loc[own, "x"], rtol=1e-6)
        np.testing.assert_allclose(group.y, points.loc[own, "y"], rtol=1e-6)
        assert all("&lt;script&gt;" in text and "…" in text for text in group.text)
        assert all("most active:" in text for text in group.text)
    assert len({group.marker.color for group in groups}) == 3
    assert list(middles.text) == ["0", "1", "2"]
    own = points[points["strongest"] == 1]
    assert middles.x[1] == pytest.approx(own["x"].median())
    assert middles.y[1] == pytest.approx(own["y"].median())


def test_without_categories_colour_is_the_module(modules, acts):
    from dataclasses import replace

    bare = replace(acts, samples=acts.samples.drop(columns=["category", "prompt"]))
    *groups, _ = tlm.plots.plot_landscape(modules, bare).data
    assert [group.name[0] for group in groups] == ["0", "1", "2"]


def test_the_axes_say_how_much_of_the_variance_they_have(modules, acts):
    figure = tlm.plots.plot_landscape(modules, acts)
    check_readable(figure)
    share = landscape(modules, acts).explained[0]
    assert f"{share:.0%} of the variance" in figure.layout.xaxis.title.text
    assert "60 prompts" in figure.layout.title.text
    tsne = tlm.plots.plot_landscape(modules, acts, projection="tsne")
    assert "t-SNE" in tsne.layout.yaxis.title.text


def test_of_many_prompts_some_are_drawn_and_the_title_says_so(modules, acts):
    figure = tlm.plots.plot_landscape(modules, acts, max_points=10)
    assert sum(len(group.x) for group in figure.data[:-1]) == 10
    assert figure.layout.title.text.startswith("10 of 60 prompts")
    again = tlm.plots.plot_landscape(modules, acts, max_points=10)
    assert again.to_json() == figure.to_json()
    other = tlm.plots.plot_landscape(modules, acts, max_points=10, seed=1)
    assert other.to_json() != figure.to_json()


def test_100_modules_are_told_apart():
    values = planted_matrix(400, 800, 100, seed=0, strength=3)[0]
    acts = tlm.ActivationMatrix.from_arrays(values)
    figure = tlm.plots.plot_landscape(tlm.discover(acts, 100, max_rounds=1), acts)
    *groups, middles = figure.data
    styles = {(group.marker.color, group.marker.symbol) for group in groups}
    assert len(styles) == len(groups) > 80
    assert middles.mode == "markers"
