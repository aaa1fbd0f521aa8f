"""A matrix as an xarray DataArray: selected and grouped by the names on its axes."""

import sys

import numpy as np
import pandas as pd
import pytest
import xarray

import tl_modules as tlm


def test_units_are_selected_by_layer_hook_point_and_number(acts):
    array = acts.to_xarray()
    assert array.dims == ("sample", "unit")
    np.testing.assert_array_equal(array.values, acts.values)
    frame = acts.units.to_frame()
    for layer in set(acts.units.layers):
        of_layer = array.sel(layer=layer)
        np.testing.assert_array_equal(of_layer.values, acts.values[:, frame["layer"] == layer])
        one = acts.values[:, (frame["layer"] == layer) & (frame["unit"] == 3)]
        np.testing.assert_array_equal(of_layer.sel(index=3).values, one[:, 0])
    name = acts.units.hook_names[1]
    named = array.sel(hook_name=name)
    np.testing.assert_array_equal(named.values, acts.values[:, frame["hook_name"] == name])
    assert set(named["layer"].values) == {acts.units.layers[1]}
    both = array.sel(layer=slice(1, 2))
    np.testing.assert_array_equal(both.values, acts.values[:, frame["layer"].isin([1, 2])])
    every = array.sel(index=3)  # of each layer
    np.testing.assert_array_equal(every.values, acts.values[:, frame["unit"] == 3])


def test_samples_are_grouped_by_category(acts):
    array = acts.to_xarray()
    assert array["prompt"].values.tolist() == acts.samples["prompt"].tolist()
    means = array.groupby("category").mean("sample")
    expected = pd.DataFrame(acts.values).groupby(acts.samples["category"].to_numpy()).mean()
    assert means["category"].values.tolist() == expected.index.tolist()
    np.testing.assert_allclose(means.values, expected, rtol=1e-5)
    # Arithmetic aligns arrays with several indexes along one dimension.
    centred = array - array.mean("sample")
    np.testing.assert_allclose(centred.values, acts.values - acts.values.mean(axis=0), atol=1e-6)
    category = acts.samples["category"].iloc[0]
    own = array[array["category"] == category]
    rows = (acts.samples["category"] == category).to_numpy()
    np.testing.assert_array_equal(own.values, acts.values[rows])


def test_a_netcdf_file_holds_all_of_it(acts, tmp_path):
    array = acts.zscore().to_xarray()
    assert array.name == "activation"
    assert array.attrs == {
        "model_name": acts.model_name,
        "reading": "mean |activation|",
        "normalisation": "zscore",
    }
    array.to_netcdf(tmp_path / "acts.nc", engine="scipy")
    loaded = xarray.load_dataarray(tmp_path / "acts.nc", engine="scipy")
    xarray.testing.assert_identical(loaded, array.drop_indexes(["layer", "hook_name", "index"]))
    samples = pd.DataFrame({name: loaded[name].values for name in acts.samples.columns})
    again = tlm.ActivationMatrix.from_arrays(loaded.values, acts.units, samples)
    np.testing.assert_array_equal(again.values, acts.zscore().values)
    # This format has whole numbers of 32 bits.
    pd.testing.assert_frame_equal(again.samples, acts.samples, check_dtype=False)


def test_columns_of_samples_do_not_hide_the_names_of_units():
    samples = {"prompt": ["a", "b"], "layer": ["x", "y"], "unit": [5, 6], "sample": ["p", "q"]}
    array = tlm.ActivationMatrix.from_arrays(np.eye(2, 3), samples=samples).to_xarray()
    assert array["sample_layer"].values.tolist() == ["x", "y"]
    assert array["sample_unit"].values.tolist() == [5, 6]
    assert array["layer"].values.tolist() == [0, 0, 0]
    assert array.sel(sample="q").values.tolist() == [0, 1, 0]


def test_the_array_shares_the_values_and_cannot_change_them(acts):
    array = acts.to_xarray()
    assert np.shares_memory(array.values, acts.values)
    with pytest.raises(ValueError, match=r"copy\(\)"):
        array[0, 0] = 1.0
    assert acts.values.flags.writeable


def test_without_xarray_the_extra_is_named(acts, monkeypatch):
    monkeypatch.setitem(sys.modules, "xarray", None)
    with pytest.raises(tlm.ModulesError, match=r"pip install 'tl-modules\[xarray\]'"):
        acts.to_xarray()
