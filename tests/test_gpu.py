"""Every public function on a CUDA device as on the CPU.

``TL_MODULES_DEVICE=cpu`` runs the comparison itself on a machine without one.
"""

import os

import numpy as np
import pandas as pd
import pytest
import torch

from tests.calls import CALLS, frames_of, setting
from tests.conftest import tiny_model

DEVICE = os.environ.get("TL_MODULES_DEVICE", "cuda")
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(
        DEVICE == "cuda" and not torch.cuda.is_available(), reason="there is no CUDA device here"
    ),
]


@pytest.fixture(scope="module")
def settings(prompts, acts, modules, tmp_path_factory):
    """The same activations and modules, found on the CPU, with a model on each device."""
    page = tmp_path_factory.mktemp("page")
    models = [tiny_model(), tiny_model().to(DEVICE)]
    return [setting(each, prompts, acts, modules, page) for each in models]


@pytest.mark.parametrize("name", CALLS)
def test_a_call_gives_on_the_device_what_it_gives_on_the_cpu(name, settings):
    found = [dict(frames_of(CALLS[name](each))) for each in settings]
    assert list(found[0]) == list(found[1])
    for here, there in zip(*(frames.values() for frames in found), strict=True):
        assert isinstance(there, pd.DataFrame)
        assert list(here.columns) == list(there.columns)
        assert len(here) == len(there)
        for column in here.select_dtypes("float"):
            values = (here[column].to_numpy(float), there[column].to_numpy(float))
            np.testing.assert_allclose(*values, rtol=1e-2, atol=1e-3, err_msg=column)
