from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

import tl_modules as tlm
from tests.planted import planted_matrix
from tl_modules.evaluation.module_means import module_means
from tl_modules.interpret.landscape import landscape
from tl_modules.modules.labels import BACKGROUND


@pytest.fixture(scope="module")
def planted():
    values, samples, _ = planted_matrix(60, 90, 3, seed=0, strength=1.5)
    frame = pd.DataFrame({"category": [f"c{label}" for label in samples]})
    acts = tlm.ActivationMatrix.from_arrays(values, samples=frame)
    return tlm.discover(acts, 3), acts


@pytest.mark.parametrize("projection", ["pca", "tsne"])
def test_prompts_of_one_planted_block_lie_together(planted, projection):
    modules, acts = planted
    points = landscape(modules, acts, projection=projection).points
    xy = points[["x", "y"]].to_numpy()
    middles = {name: own[["x", "y"]].mean().to_numpy() for name, own in points.groupby("category")}
    nearest = [min(middles, key=lambda name: np.sum((at - middles[name]) ** 2)) for at in xy]
    assert np.mean(nearest == points["category"].to_numpy()) > 0.95


def test_the_first_components_are_those_of_the_standardised_means(planted):
    modules, acts = planted
    found = landscape(modules, acts)
    means = module_means(modules, acts)
    features = (means - means.mean(axis=0)) / means.std(axis=0)
    sizes = np.linalg.svd(features, compute_uv=False) ** 2
    assert found.explained == pytest.approx(tuple(sizes[:2] / sizes.sum()), rel=1e-4)
    assert found.points["x"].var() > found.points["y"].var()
    np.testing.assert_array_equal(found.points["strongest"], features.argmax(axis=1))


def test_held_out_prompts_are_laid_out_too(planted):
    modules, acts = planted
    assert len(landscape(modules, acts.select([3, 1, 2, 9])).points) == 4
    assert len(landscape(modules, acts.select([3, 1, 2, 9]), projection="tsne").points) == 4


def test_a_module_that_is_constant_counts_as_nothing(planted):
    modules, acts = planted
    emptied = replace(modules, unit_labels=np.minimum(modules.unit_labels, 1))
    points = landscape(emptied, acts).points
    assert np.isfinite(points[["x", "y"]].to_numpy()).all()


def test_modules_without_units_lay_everything_on_one_point(planted):
    modules, acts = planted
    found = landscape(replace(modules, unit_labels=np.full(90, BACKGROUND)), acts)
    assert found.explained == (0.0, 0.0)
    assert (found.points[["x", "y"]] == 0).all(axis=None)


def test_what_cannot_be_laid_out_is_refused(planted):
    modules, acts = planted
    with pytest.raises(tlm.ModulesError, match="projection should be one of"):
        tlm.plots.plot_landscape(modules, acts, projection="umap")
    with pytest.raises(tlm.ModulesError, match="at least 3 samples"):
        landscape(modules, acts.select([0, 1]))


@pytest.mark.parametrize("projection", ["pca", "tsne"])
@pytest.mark.parametrize("value", [1.0, None])
def test_samples_that_are_all_alike_are_one_point(projection, value):
    row = np.random.default_rng(0).random((1, 20)) if value is None else np.full((1, 20), value)
    acts = tlm.ActivationMatrix.from_arrays(np.tile(row, (12, 1)))
    points = landscape(tlm.discover(acts, 2, progress=False), acts, projection=projection).points
    assert (points[["x", "y"]] == 0).all(axis=None)
