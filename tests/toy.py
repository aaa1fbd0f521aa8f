"""A model small enough to work out by hand.

Each position is on its own. A token's number t gives the embedding e = t / 10; with neurons a, b in
layer 0 and c, d in layer 1, none of them bent by an activation function,

    a = e    b = 2 e    c = a + 3 b    d = e    logits = (0, c + 10 d, 0)

so that c = 7 e and the middle logit is 17 e. Module 0 holds a and d, module 1 holds b and c.
"""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import torch
from transformer_lens import HookedRootModule
from transformer_lens.hook_points import HookPoint

import tl_modules as tlm

HOOKS = tuple(f"blocks.{layer}.mlp.hook_post" for layer in range(2))


class _Mlp(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.hook_post = HookPoint()


class Block(torch.nn.Module):
    """A layer that holds nothing but the hook point of its neurons."""

    def __init__(self):
        super().__init__()
        self.mlp = _Mlp()


class Toy(HookedRootModule):
    """The model above, as a hooked model."""

    def __init__(self):
        """Name its hook points."""
        super().__init__()
        self.cfg = SimpleNamespace(n_layers=2, d_mlp=2, n_ctx=64, device="cpu", model_name="toy")
        self.hook_embed = HookPoint()
        self.blocks = torch.nn.ModuleList([Block(), Block()])
        self.setup()
        self.eval()

    def to_tokens(self, text, truncate=True):
        """Digits are tokens: ``"1 2"``."""
        return torch.tensor([[int(word) for word in text.split()]])

    def forward(self, tokens, return_type="logits", attention_mask=None):
        """``[batch, pos]`` to ``[batch, pos, 3]``."""
        e = self.hook_embed(tokens[..., None].float() / 10)[..., 0]
        a, b = self.blocks[0].mlp.hook_post(torch.stack([e, 2 * e], -1)).unbind(-1)
        c, d = self.blocks[1].mlp.hook_post(torch.stack([a + 3 * b, e], -1)).unbind(-1)
        middle = c + 10 * d
        nothing = torch.zeros_like(middle)
        return torch.stack([nothing, middle, nothing], -1)


def toy_modules():
    """Module 0 (a and d) and module 1 (b and c), with a prompt each."""
    return tlm.ModuleSet(
        units=tlm.Units.whole(HOOKS, (0, 1), (2, 2)),
        samples=pd.DataFrame({"prompt": ["1 1", "2 1"], "category": ["one", "two"]}),
        unit_labels=np.array([0, 1, 1, 0]),
        sample_labels=np.array([0, 1]),
        n_modules=2,
        objective=tlm.modules.Objective(0.0, 0.0, 0.0),
        sample_scores=np.zeros(2),
        unit_means=np.array([0.1, 0.2, 0.7, 0.1]),  # e = 0.1 everywhere
    )


def middle(logits):
    """The logit difference of the last token, one a prompt."""
    return logits[:, -1, 1] - logits[:, -1, 0]


CLEAN, CORRUPTED = torch.tensor([[2, 1]]), torch.tensor([[2, 2]])
"""At the last position e is 0.1 and 0.2, the metric 1.7 and 3.4."""


class SinkToy(Toy):
    """The toy with a residual stream, read after both layers: a token's norm is its number / 10."""

    def __init__(self):
        """Name one more hook point."""
        super().__init__()
        self.blocks[1].hook_resid_post = HookPoint()
        self.setup()

    def forward(self, tokens, return_type="logits", attention_mask=None):
        """As the toy's; tokens above 2 are predicted as token 2 is."""
        logits = super().forward(tokens, return_type, attention_mask)
        self.blocks[1].hook_resid_post(tokens[..., None].float() / 10)
        return torch.cat([logits, logits[..., 2:].expand(*logits.shape[:2], 97)], dim=-1)
