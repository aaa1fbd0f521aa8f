"""Models with SAEs that the tests share."""

import pytest
import torch

import tl_modules as tlm
from tests.causal.conftest import clean, corrupted
from tests.saes.made import OURS, RESID, THEIRS, Signed, attached_hooks, make_saes

__all__ = ["clean", "corrupted"]  # fixtures of the causal tests


@pytest.fixture(scope="module", params=[*OURS, *THEIRS])
def any_saes(request):
    return make_saes(request.param)


@pytest.fixture(scope="module")
def spliced(model):
    return tlm.with_saes(model, make_saes("random"))


@pytest.fixture(scope="module")
def perfect(model):
    return tlm.with_saes(model, [Signed(RESID.format(layer)) for layer in range(3)])


@pytest.fixture(scope="module")
def acts(spliced, prompts):
    return tlm.collect(spliced, prompts, units="sae", progress=False)


@pytest.fixture(scope="module")
def modules(acts):
    return tlm.discover(acts, 2)


@pytest.fixture
def tokens(model):
    texts = ["the cat sat on the mat", "one plus two equals three :"]
    return torch.cat([model.to_tokens(text) for text in texts])


@pytest.fixture(autouse=True)
def _nothing_stays_behind(model):
    yield
    assert attached_hooks(model) == []
