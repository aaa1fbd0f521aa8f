import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import tl_modules as tlm
from tl_modules.activations.normalise import ZScore


@given(
    values=hnp.arrays(
        np.float64, st.tuples(st.integers(2, 6), st.integers(1, 5)), elements=st.floats(-100, 100)
    )
)
def test_zscores_have_mean_zero_and_sample_deviation_one_or_are_zero(values):
    scored = tlm.ActivationMatrix.from_arrays(values).zscore().values
    flat = values.std(axis=0, ddof=1) < 1e-8
    np.testing.assert_allclose(scored.mean(axis=0), 0, atol=1e-6)
    np.testing.assert_allclose(scored[:, ~flat].std(axis=0, ddof=1), 1, rtol=1e-6)
    np.testing.assert_allclose(scored[:, flat], 0, atol=1e-5)


def test_held_out_samples_use_the_fitted_mean_and_deviation():
    generator = np.random.default_rng(0)
    train, test = generator.normal(3, 2, size=(2, 20, 4))
    fitted = tlm.ActivationMatrix.from_arrays(train).zscore().normaliser
    scored = tlm.ActivationMatrix.from_arrays(test).zscore(like=fitted).values
    expected = (test - train.mean(axis=0)) / train.std(axis=0, ddof=1)
    np.testing.assert_allclose(scored, expected, rtol=1e-10)


def test_a_unit_that_never_varies_becomes_zero_not_noise():
    values = np.full((4, 1), 0.1) + np.array([[0], [1e-12], [0], [-1e-12]])
    assert np.abs(ZScore.fit(values).apply(values)).max() < 1e-8


def test_saving_and_loading_keeps_everything(acts, tmp_path):
    for matrix in (acts, acts.zscore()):
        matrix.save(tmp_path / "acts.safetensors")
        found = tlm.ActivationMatrix.load(tmp_path / "acts.safetensors")
        np.testing.assert_array_equal(found.values, matrix.values)
        np.testing.assert_array_equal(found.unit_means, matrix.unit_means)
        assert found.units.to_frame().equals(matrix.units.to_frame())
        pd.testing.assert_frame_equal(found.samples, matrix.samples)
        assert found.model_name == matrix.model_name == "tiny"
        assert (found.normaliser is None) == (matrix.normaliser is None)


def test_a_module_file_is_no_activation_matrix(modules, tmp_path):
    modules.save(tmp_path / "modules.safetensors")
    with pytest.raises(tlm.ModulesError, match="hold a ActivationMatrix; it holds 'ModuleSet'"):
        tlm.ActivationMatrix.load(tmp_path / "modules.safetensors")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.ones(3), "2 axes"),
        (np.ones((0, 3)), "at least one sample and one unit"),
        ([[1.0, np.nan]], "index 1, sample 0 it is nan"),
        ([[1.0], [np.inf]], "index 0, sample 1 it is inf"),
    ],
)
def test_values_that_cannot_be_a_matrix_are_refused(values, message):
    with pytest.raises(tlm.ModulesError, match=message):
        tlm.ActivationMatrix.from_arrays(values)


def test_samples_and_units_must_fit_the_values(acts):
    with pytest.raises(tlm.ModulesError, match="have one row per sample, 2; it has 1"):
        tlm.ActivationMatrix.from_arrays(np.ones((2, 3)), samples=["one"])
    with pytest.raises(tlm.ModulesError, match=r"samples x units = \(2, 36\); got \(2, 3\)"):
        tlm.ActivationMatrix.from_arrays(np.ones((2, 3)), units=acts.units)
    half = acts.units.select(np.arange(18))
    with pytest.raises(tlm.ModulesError, match="all units of the hook points"):
        tlm.ActivationMatrix.from_arrays(np.ones((2, 18)), units=half)


def test_a_prompt_holding_markup_stays_text_in_the_notebook():
    samples = pd.DataFrame({"prompt": ["<script>alert(1)</script>"]})
    matrix = tlm.ActivationMatrix.from_arrays(np.ones((1, 2)), samples=samples)
    assert "<script>" not in matrix._repr_html_()
    assert "1 samples x 2 units" in matrix._repr_html_()


def test_activations_are_never_zscored_twice(acts):
    scored = acts.zscore()
    for like in (None, scored.normaliser):
        with pytest.raises(tlm.ModulesError, match="z-scores already"):
            scored.zscore(like=like)


def test_huge_but_finite_values_are_no_nan():
    assert tlm.ActivationMatrix.from_arrays(np.full((2, 3), 1e308)).values.max() == 1e308


def test_chosen_samples_keep_their_rows():
    acts = tlm.ActivationMatrix.from_arrays(
        np.arange(12.0).reshape(6, 2), samples=pd.DataFrame({"category": list("abcdef")})
    )
    some = acts.select([4, 1, 1])
    assert some.values.tolist() == acts.values[[4, 1, 1]].tolist()
    assert some.samples["category"].tolist() == acts.samples["category"][[4, 1, 1]].tolist()
    with pytest.raises(tlm.ModulesError, match="rows should be whole numbers from 0 to 5"):
        acts.select([6])


@pytest.mark.parametrize("values", [[[1.0, 2.0], [3.0]], [["a", "b"]], [[object(), None]]])
def test_values_that_are_no_table_of_numbers_are_refused(values):
    with pytest.raises(tlm.ModulesError, match="values should be numbers in rows of one length"):
        tlm.ActivationMatrix.from_arrays(values)


def test_a_normaliser_of_other_units_is_refused(acts):
    like = ZScore(np.zeros(3), np.ones(3))
    with pytest.raises(tlm.ModulesError, match="fitted on 36 units; its normaliser_mean has shape"):
        acts.zscore(like=like)
