from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

import tl_modules as tlm
from tests.interpret.made_by_hand import layered, module_set
from tests.planted import planted_matrix
from tests.report.reading import check_readable, names_overlap
from tl_modules.interpret.blocks import sort_blocks
from tl_modules.modules.labels import BACKGROUND


@pytest.fixture(scope="module")
def acts():
    values, labels, _ = planted_matrix(60, 90, 3, seed=0, strength=1.5)
    frame = pd.DataFrame({"category": [f"<i>{label}</i>" for label in labels]})
    return tlm.ActivationMatrix.from_arrays(values, samples=frame)


@pytest.fixture(scope="module")
def modules(acts):
    return tlm.discover(acts, 3)


def test_the_sorted_means_are_drawn_with_each_modules_frame(modules, acts):
    figure = tlm.plots.plot_activations(modules, acts)
    values, rows, columns = sort_blocks(modules, acts)
    (heatmap,) = figure.data
    np.testing.assert_allclose(heatmap.z, values, rtol=1e-6)
    assert heatmap.z.dtype == np.float32
    np.testing.assert_array_equal(heatmap.x, columns.edges)
    np.testing.assert_array_equal(heatmap.y, rows.edges)
    assert (heatmap.customdata[..., 0] == rows.labels[:, None]).all()
    assert (heatmap.customdata[..., 1] == columns.labels).all()
    ends = [np.cumsum(np.bincount(part)) for part in (modules.unit_labels, modules.sample_labels)]
    for k, shape in enumerate(figure.layout.shapes):
        assert (shape.x1, shape.y1) == (ends[0][k], ends[1][k])
    assert heatmap.zmax == -heatmap.zmin == pytest.approx(np.quantile(np.abs(values), 0.99))


def test_the_figure_says_what_it_shows_on_light_and_on_dark_pages(modules, acts):
    figure = tlm.plots.plot_activations(modules, acts)
    check_readable(figure)
    assert "z-score" in figure.data[0].colorbar.title.text
    assert "(90)" in figure.layout.xaxis.title.text
    assert "(60)" in figure.layout.yaxis.title.text
    assert all("&lt;i&gt;" in name for name in figure.layout.yaxis.ticktext)


def test_the_background_has_no_frame(modules, acts):
    labels = modules.unit_labels.copy()
    labels[:10] = BACKGROUND
    figure = tlm.plots.plot_activations(replace(modules, unit_labels=labels), acts)
    assert len(figure.layout.shapes) == 3
    assert figure.layout.xaxis.ticktext[-1] == "-"


def test_100_modules_of_a_large_matrix_stay_small_and_their_names_do_not_overlap():
    generator = np.random.default_rng(0)
    units = layered([400] * 10)
    labels = [np.append(np.arange(100), generator.integers(0, 100, n - 100)) for n in (4000, 1500)]
    found = module_set(labels[0], units, labels[1], [f"c{k % 7}" for k in range(1500)])
    acts = tlm.ActivationMatrix(generator.normal(size=(1500, 4000)), units, found.samples)
    figure = tlm.plots.plot_activations(found, acts.zscore())
    assert len(figure.to_html(include_plotlyjs=False)) < 2e6
    assert len(figure.layout.yaxis.ticktext) >= 30
    places = np.array(figure.layout.yaxis.tickvals)
    assert (np.diff(places) / 1500 * (figure.layout.height - 180) >= 14).all()
    assert not names_overlap(figure, len(figure.layout.yaxis.ticktext))


def test_values_that_are_all_0_are_drawn(acts, modules):
    flat = replace(modules, normaliser=None)
    zeros = replace(acts.zscore(), values=np.zeros((60, 90)))
    assert tlm.plots.plot_activations(flat, zeros).data[0].zmax == 1
