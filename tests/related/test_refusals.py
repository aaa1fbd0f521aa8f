"""What EigenShift and detectors refuse of what users pass, and what a module's feature is."""

from contextlib import contextmanager

import jaxtyping
import numpy as np
import pytest

import tl_modules as tlm
from tests.conftest import tiny_model
from tl_modules.evaluation.detectors import _features
from tl_modules.related import eigen_shift

QUIET = {"progress": False}
TEXTS = ["the cat sat", "one dog ran"]


@contextmanager
def untyped():
    """As users run it: without the tests' own type checks, which would catch some of it first."""
    jaxtyping.config.update("jaxtyping_disable", True)
    try:
        yield
    finally:
        jaxtyping.config.update("jaxtyping_disable", False)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"model": None}, "model should be a TransformerBridge or HookedTransformer"),
        ({"n_components": 2.5}, "n_components should be a whole number; got 2.5"),
        ({"n_components": None}, "n_components should be a whole number; got None"),
        ({"towards": None}, "towards should be a list of strings, .*; got None"),
        ({"towards": iter(TEXTS)}, "towards should be a list of strings.*; got a generator"),
        ({"against": None}, "against should be a list of strings, .*; got None"),
    ],
)
def test_what_no_components_can_be_chosen_by_is_refused_before_the_model_runs(
    change, said, monkeypatch
):
    model = tiny_model()
    monkeypatch.setattr(eigen_shift, "output_states", None)
    given = {"model": model, "towards": TEXTS, "against": TEXTS[::-1], **QUIET} | change
    with untyped(), pytest.raises(tlm.ModulesError, match=said):
        tlm.related.eigenshift(**given)


def test_modules_that_are_no_set_are_refused(acts, modules):
    said = "modules should be a module set; got .*Pass the ModuleSet that discover returned"
    for given in (list(modules), modules[0]):
        with untyped(), pytest.raises(tlm.ModulesError, match=said):
            tlm.compare_detectors(acts, "animal", given, **QUIET)


def test_modules_of_other_units_are_refused(acts, modules):
    other = tlm.ActivationMatrix.from_arrays(
        acts.values[:, :20], samples=acts.samples[["category", "prompt"]]
    )
    with pytest.raises(tlm.ModulesError, match="should have the modules' units"):
        tlm.compare_detectors(other, "animal", modules, **QUIET)


@pytest.mark.parametrize("normalisation", ["rank", "zscore"])
def test_a_modules_feature_is_its_units_mean_z_score_however_it_was_discovered(acts, normalisation):
    modules = tlm.discover(acts.normalise(normalisation), 3)
    test = acts.select(np.arange(0, len(acts.samples), 2))
    found = _features(acts, modules, test)["module"]
    mean, std = acts.values.mean(axis=0), acts.values.std(axis=0, ddof=1)
    for values, raw in zip(found, (acts.values, test.values), strict=True):
        scores = (raw - mean) / std
        for k in range(3):
            expected = scores[:, modules.unit_labels == k].mean(axis=1)
            np.testing.assert_allclose(values[:, k], expected, atol=1e-5)


def test_a_figure_of_something_else_is_refused(acts):
    pytest.importorskip("plotly", reason="the extra 'viz' is not installed in this environment")
    table = tlm.compare_detectors(acts, "animal", n_resamples=2, **QUIET).table
    with (
        untyped(),
        pytest.raises(tlm.ModulesError, match="what compare_detectors returned; got DataFrame"),
    ):
        tlm.plots.plot_detectors(table)
