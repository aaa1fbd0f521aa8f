"""Every public function on a CUDA device as on the CPU.

``TL_MODULES_DEVICE=cpu`` runs the comparison itself on a machine without one. Chains of thought are
written one token after the other, so that what is written may part where what is read does not:
sampled ones always, since PyTorch's generators of CPUs and of GPUs draw other numbers from a seed,
and greedy ones from a near tie on. What is read is compared on chains that are given.
"""

import os

import pandas as pd
import pytest
import torch

from tests.calls import ASK, CALLS, followed, frames_of, questions, setting
from tests.conftest import tiny_model
from tests.devices import check_alike, n_agreeing
from tl_modules.activations.reading import Reading
from tl_modules.thoughts.chains import question_tokens, written_chains
from tl_modules.thoughts.styles import ask_in

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


SAMPLING = ("thought_states",)


@pytest.mark.parametrize("name", [name for name in CALLS if name not in SAMPLING])
def test_a_call_gives_on_the_device_what_it_gives_on_the_cpu(name, settings):
    found = [dict(frames_of(CALLS[name](each))) for each in settings]
    assert list(found[0]) == list(found[1])
    for here, there in zip(*(frames.values() for frames in found), strict=True):
        check_alike(here, there, rtol=1e-2, atol=1e-3)


def test_states_of_given_chains_are_read_alike(settings):
    chains = ["a dog ran over the cat", "one plus two equals three"]
    here, there = (followed(each, chains=chains).states for each in settings)
    assert here["step"].tolist() == [0, 1, 0, 1]
    check_alike(here, there, rtol=1e-4, atol=1e-5)


def test_states_of_chains_that_the_device_wrote_are_read_alike(settings):
    here, there = settings
    written = followed(there, n_chains=1, temperature=1.0).states
    chains = written[written["step"] > 0].groupby("id", sort=True)["thought"].agg(" ".join)
    assert len(chains) == len(questions())
    read = followed(here, chains=chains.tolist()).states
    assert read["thought"].tolist() == written["thought"].tolist()
    check_alike(read, written, rtol=1e-4, atol=1e-5)


def test_greedy_chains_part_at_near_ties_alone(settings):
    frame = questions()
    written = []
    for each in settings:
        asked = ask_in(frame, ASK)
        starts = question_tokens(each.model, asked, Reading())
        options = {"n_chains": 1, "n_new_tokens": 20, "temperature": 0.0, "seed": 0}
        written.append(written_chains(each.model, starts, **options, progress=False))
    for here, there in zip(*written, strict=True):
        assert here.ends[0] == there.ends[0]
        agreeing = n_agreeing(settings[0].model, here.tokens, there.tokens, tie=1e-3)
        assert agreeing >= here.ends[0]


def test_a_seed_draws_the_same_chains_again(settings):
    for each in settings:
        pd.testing.assert_frame_equal(followed(each).states, followed(each).states)
