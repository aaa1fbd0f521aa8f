"""P-values of random modules that are scaled while a small model writes."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import torch
from transformer_lens import HookedRootModule
from transformer_lens.hook_points import HookPoint

import tl_modules as tlm
from benchmarks.calibration.levels import PValues, Simulation, generator_of

N_CONTROLS = 19
N_NEURONS, N_WORDS, N_PLACES = 40, 30, 7


class _Block(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.mlp = torch.nn.Module()
        self.mlp.hook_post = HookPoint()


class _Numbers:
    """A tokenizer whose words are the tokens' numbers."""

    all_special_ids = ()

    def decode(self, tokens: list[int], skip_special_tokens: bool) -> str:
        """The numbers."""
        del skip_special_tokens
        return " ".join(map(str, tokens))


class _WritingModel(HookedRootModule):
    """Neurons that fire by a token and its place, and write random directions of the next token.

    Which token is likeliest hangs on all neurons, so that scaling any set changes what is written.
    """

    def __init__(self) -> None:
        super().__init__()
        self.cfg = SimpleNamespace(
            n_layers=1,
            d_mlp=N_NEURONS,
            n_ctx=64,
            device="cpu",
            model_name="writing",
            d_vocab=N_WORDS,
        )
        generator = torch.Generator().manual_seed(0)
        self.fires = torch.randn(N_PLACES, N_WORDS, N_NEURONS, generator=generator)
        self.W_out = torch.randn(N_NEURONS, N_WORDS, generator=generator) / 2
        self.blocks = torch.nn.ModuleList([_Block()])
        self.tokenizer = _Numbers()
        self.setup()
        self.eval()

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
        """``[batch, pos]`` to ``[batch, pos, words]``."""
        del return_type, attention_mask
        fires = self.fires[torch.arange(tokens.shape[1]) % N_PLACES, tokens]
        return self.blocks[0].mlp.hook_post(fires) @ self.W_out

    def generate(
        self,
        tokens: torch.Tensor,
        max_new_tokens: int,
        do_sample: bool,
        verbose: bool,
        stop_at_eos: bool,
    ) -> torch.Tensor:
        """Write the likeliest tokens."""
        del do_sample, verbose, stop_at_eos
        for _ in range(max_new_tokens):
            tokens = torch.cat([tokens, self(tokens)[:, -1:].argmax(-1)], dim=1)
        return tokens


def steering(n: int, seed: int) -> dict[str, PValues]:
    """Modules of a quarter of the neurons, doubled and halved."""
    model, generator = _WritingModel(), generator_of(seed)
    units = tlm.Units.whole(("blocks.0.mlp.hook_post",), (0,), (N_NEURONS,))
    texts = [" ".join(map(str, row)) for row in generator.integers(N_WORDS, size=(6, 5))]
    prompts = pd.DataFrame({"prompt": texts, "category": ["a", "b"] * 3})
    values = generator.normal(size=N_WORDS)
    modules = []
    for label in range(n):
        chosen = generator.permutation(np.arange(N_NEURONS) % 4) == 0
        samples = prompts[prompts["category"] == "ab"[label % 2]]
        modules.append(tlm.Module(label, units.select(chosen), samples))
    table = tlm.steering_effects(
        model,
        modules,
        prompts,
        factors=[0.5, 2.0],
        starts=texts[:2],
        scorer=lambda text: float(np.mean([values[int(word)] for word in text.split()])),
        n_new_tokens=8,
        positions="all",
        n_controls=N_CONTROLS,
        batch_size=2 * (1 + N_CONTROLS),
        seed=seed,
        progress=False,
    )
    return {
        f"steering_effects, {what}": table.pivot(
            index="module", columns="factor", values=f"{name}_p_value"
        ).to_numpy()
        for what, name in (("losses", "selectivity"), ("score", "score_rise"), ("lost", "lost"))
    }


SIMULATIONS = (Simulation(steering, "a module's units are a random quarter of all units", 1000),)
