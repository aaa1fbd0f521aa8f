"""Matrices with known blocks, and a model whose neurons' owners are known."""

import importlib.util
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from transformer_lens import HookedRootModule

from tests.toy import Block


def planted_matrix(n_samples, n_units, n_modules, seed, strength=1.0):
    """Standard normal noise, raised by ``strength`` where sample and unit share a label."""
    generator = np.random.default_rng(seed)
    samples = generator.permutation(np.arange(n_samples) % n_modules)
    units = generator.permutation(np.arange(n_units) % n_modules)
    matrix = generator.normal(size=(n_samples, n_units))
    matrix += strength * (samples[:, None] == units[None, :])
    return matrix, samples, units


class PlantedModel(HookedRootModule):
    """Two layers of neurons, each of which one category of prompts alone needs.

    A prompt is a tag (its category's number) and symbols that count upwards. Every neuron fires on
    every token; what it writes raises the logit of the right next symbol, but only in prompts of
    its owner's category. Neurons write with random strengths, so that sets of equally many differ.
    """

    N_CATEGORIES, N_SYMBOLS, N_NEURONS = 3, 10, 60

    def __init__(self, seed=0):
        """Draw owners and strengths."""
        super().__init__()
        self.cfg = SimpleNamespace(
            n_layers=2, d_mlp=self.N_NEURONS, n_ctx=64, device="cpu", model_name="planted"
        )
        generator = np.random.default_rng(seed)
        each = np.arange(2 * self.N_NEURONS) % self.N_CATEGORIES
        self.owner = generator.permutation(each)
        strength = generator.lognormal(sigma=1.0, size=(2, self.N_NEURONS)) / 20
        self.strength = torch.from_numpy(strength).float()
        self.blocks = torch.nn.ModuleList([Block(), Block()])
        self.setup()
        self.eval()

    def prompts(self, per_category, seed=0):
        """So many prompts of each category, as a frame."""
        generator = np.random.default_rng([1, seed])
        rows = []
        for category in range(self.N_CATEGORIES):
            for start in generator.integers(self.N_SYMBOLS, size=per_category):
                symbols = (start + np.arange(5)) % self.N_SYMBOLS + self.N_CATEGORIES
                text = " ".join(map(str, [category, *symbols]))
                rows.append({"prompt": text, "category": f"task{category}"})
        return pd.DataFrame(rows)

    def to_tokens(self, text):
        """Numbers are tokens."""
        return torch.tensor([[int(word) for word in text.split()]])

    def forward(self, tokens, return_type="logits", attention_mask=None):
        """``[batch, pos]`` to ``[batch, pos, tokens]``."""
        first = self.N_CATEGORIES
        neurons = torch.arange(1, self.N_NEURONS + 1)
        written = 0
        for layer, block in enumerate(self.blocks):
            fires = 1 + 0.5 * torch.sin(tokens[..., None] * neurons + layer)
            fires = block.mlp.hook_post(fires)
            owner = torch.from_numpy(self.owner).view(2, -1)[layer]
            owned = owner[None] == tokens[:, :1]
            written = written + (fires * self.strength[layer] * owned[:, None]).sum(-1)
        following = (tokens - first + 1).clamp(min=0) % self.N_SYMBOLS + first
        logits = torch.zeros(*tokens.shape, first + self.N_SYMBOLS)
        return logits.scatter(-1, following[..., None], written[..., None])


def truth_model(shared, name):
    """A trained model whose neurons' owners are known, from beside the project; else skip.

    Returns:
        The model, the owners, the tasks' tables, and ``prompts(tables, counts, seed)``.
    """
    path = shared / "truth" / f"{name}.safetensors"
    if not path.is_file():
        pytest.skip("the models of known truth beside the project (../shared/truth) are absent")
    spec = importlib.util.spec_from_file_location("truth_models", path.with_name("truth_models.py"))
    truth = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(truth)
    return *truth.load(path), truth.prompts
