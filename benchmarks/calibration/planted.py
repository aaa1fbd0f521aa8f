"""A small model whose neurons' owners are known, and random modules of its neurons."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import torch
from jaxtyping import Int
from transformer_lens import HookedRootModule
from transformer_lens.hook_points import HookPoint

import tl_modules as tlm


class _Mlp(torch.nn.Module):
    def __init__(self, w_in: torch.Tensor, w_out: torch.Tensor) -> None:
        super().__init__()
        self.W_in, self.W_out = torch.nn.Parameter(w_in), torch.nn.Parameter(w_out)
        self.hook_post = HookPoint()


class _Block(torch.nn.Module):
    def __init__(self, w_in: torch.Tensor, w_out: torch.Tensor) -> None:
        super().__init__()
        self.mlp = _Mlp(w_in, w_out)


class _Unembed(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.hook_in = HookPoint()


class PlantedModel(HookedRootModule):
    """Layers of neurons, each of which one category of prompts alone needs.

    A prompt is a tag (its category's number) and symbols that count upwards. Every neuron fires on
    every token; what it writes raises the logit of the right next symbol, but only in prompts of
    its owner's category. Neurons write with random strengths, so that sets of equally many differ.
    With ``coupling`` a layer's neurons read random mixtures of the previous layer's.
    """

    N_CATEGORIES, N_SYMBOLS = 3, 10

    def __init__(
        self, seed: int = 0, coupling: float = 0.0, n_layers: int = 2, n_neurons: int = 60
    ) -> None:
        """Draw owners, strengths and couplings."""
        super().__init__()
        n, vocabulary = n_neurons, self.N_CATEGORIES + self.N_SYMBOLS
        self.cfg = SimpleNamespace(
            n_layers=n_layers,
            d_mlp=n,
            n_ctx=64,
            device="cpu",
            model_name="planted",
            d_vocab=vocabulary,
        )
        generator = np.random.default_rng(seed)
        self.owner = generator.permutation(np.arange(n_layers * n) % self.N_CATEGORIES)
        strength = torch.from_numpy(generator.lognormal(sigma=1.0, size=(n_layers, n)) / 20).float()
        mix = generator.normal(size=(n, n)) * coupling / np.sqrt(n)
        self.mix = torch.from_numpy(mix).float()
        mixed = torch.from_numpy(generator.normal(size=(vocabulary, vocabulary))).float()
        left, _, right = torch.linalg.svd(mixed)
        self.W_U = left * torch.linspace(2.0, 0.5, vocabulary) @ right
        self._inverse = torch.linalg.inv(self.W_U)
        tokens, neurons = torch.arange(vocabulary)[:, None], torch.arange(1, n + 1)
        blocks = []
        for layer, owner in enumerate(torch.from_numpy(self.owner).view(n_layers, -1)):
            fires = 1 + 0.5 * torch.sin(tokens * neurons + layer)
            owned = owner[:, None] == torch.arange(self.N_CATEGORIES)
            blocks.append(_Block(fires, strength[layer][:, None] * owned))
        self.blocks = torch.nn.ModuleList(blocks)
        self.unembed = _Unembed()
        self.setup()
        self.eval()

    def prompts(self, per_category: int, seed: int = 0, n_symbols: int = 5) -> pd.DataFrame:
        """So many prompts of each category, as a frame."""
        generator = np.random.default_rng([1, seed])
        rows = []
        for category in range(self.N_CATEGORIES):
            for start in generator.integers(self.N_SYMBOLS, size=per_category):
                symbols = (start + np.arange(n_symbols)) % self.N_SYMBOLS + self.N_CATEGORIES
                text = " ".join(map(str, [category, *symbols]))
                rows.append({"prompt": text, "category": f"task{category}"})
        return pd.DataFrame(rows)

    def noise(self, n: int, category: int, generator: np.random.Generator) -> list[str]:
        """So many prompts of one category whose four symbols are random."""
        symbols = generator.integers(self.N_SYMBOLS, size=(n, 4)) + self.N_CATEGORIES
        return [" ".join(map(str, [category, *row])) for row in symbols]

    def to_tokens(self, text: str, truncate: bool = True) -> torch.Tensor:
        """Numbers are tokens."""
        del truncate
        return torch.tensor([[int(word) for word in text.split()]])

    def forward(
        self,
        tokens: torch.Tensor,
        return_type: str | None = "logits",
        attention_mask: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """``[batch, pos]`` to ``[batch, pos, tokens]``."""
        del return_type, attention_mask
        first, earlier, written = self.N_CATEGORIES, None, torch.tensor(0.0)
        for block in self.blocks:
            fires = block.mlp.W_in[tokens]
            if earlier is not None and self.mix.any():
                fires = fires + torch.tanh(earlier @ self.mix)
            earlier = fires = block.mlp.hook_post(fires)
            written = written + fires @ block.mlp.W_out
        of_tag = tokens[:, :1, None].clamp(max=first - 1).expand(-1, tokens.shape[1], 1)
        written = written.gather(-1, of_tag)
        following = (tokens - first + 1).clamp(min=0) % self.N_SYMBOLS + first
        logits = torch.zeros(*tokens.shape, self.cfg.d_vocab)
        logits = logits.scatter(-1, following[..., None], written)
        return self.unembed.hook_in(logits @ self._inverse) @ self.W_U


def random_labels(
    n_units: int, n_modules: int, generator: np.random.Generator
) -> Int[np.ndarray, " units"]:
    """A random module for each unit, equally many units each."""
    return generator.permutation(np.arange(n_units) % n_modules)


def module_set(
    acts: tlm.ActivationMatrix, unit_labels: np.ndarray, sample_labels: np.ndarray, n_modules: int
) -> tlm.ModuleSet:
    """A module set with given labels, as discovery would make it."""
    return tlm.ModuleSet(
        units=acts.units,
        samples=acts.samples,
        unit_labels=unit_labels,
        sample_labels=sample_labels,
        n_modules=n_modules,
        objective=tlm.modules.Objective(0.0, 0.0, 0.0),
        sample_scores=np.zeros(len(acts.samples)),
        unit_means=acts.values.mean(axis=0),
        versions={},  # looking them up takes longer than the rest
    )
