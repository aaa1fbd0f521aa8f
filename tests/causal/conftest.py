"""Pairs of runs to patch between."""

import pytest
import torch


@pytest.fixture(scope="session")
def clean(model):
    texts = ["the cat sat on the mat", "one plus two equals three :"]
    return torch.cat([model.to_tokens(text) for text in texts])


@pytest.fixture(scope="session")
def corrupted(model):
    texts = ["the dog ran over the house", "two minus one equals two ="]
    return torch.cat([model.to_tokens(text) for text in texts])
