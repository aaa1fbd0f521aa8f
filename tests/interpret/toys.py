"""Models worked out by hand: one with a tokenizer, where token 7 is special; one by token."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import torch

from tests.toy import Toy, toy_modules
from tl_modules.activations.normalise import Raw


class Digits:
    """Token ids as digits; 7 is special."""

    all_special_ids = (7,)
    bos_token_id = None

    def __len__(self):
        """Ten digits."""
        return 10

    def convert_ids_to_tokens(self, token):
        """7 by its name."""
        return "<seven>" if token == 7 else str(token)

    def decode(self, tokens, skip_special_tokens=False):
        """``"1 2"``, and 7 as nothing."""
        kept = [token for token in tokens if not (skip_special_tokens and token == 7)]
        return " ".join(map(str, kept))


class Lensed(Toy):
    """The toy with weights to read: what its neurons a, b, c, d write in three dimensions."""

    def __init__(self):
        """A writes x, b writes y, c writes z, d writes -x; tokens 0, 1, 2 are read off x, y, z."""
        super().__init__()
        self.tokenizer = Digits()
        self.cfg.d_model = 3
        x, y, z = torch.eye(3)
        self.blocks[0].mlp.W_out = torch.stack([x, y])
        self.blocks[1].mlp.W_out = torch.stack([z, -x])
        self.W_U = torch.eye(3)


def lensed_modules():
    """Module 0 holds a and d, module 1 b and c; the units' mean |a| are 0.1, 0.2, 0.7, 0.1."""
    modules = toy_modules()
    normaliser = Raw(np.array([0.1, 0.2, 0.7, 0.1]))
    samples = modules.samples.assign(prompt=["1 2 7 3", "2 1"])
    return replace(modules, normaliser=normaliser, samples=samples)


class ByToken:
    """A hooked model whose hook points hold a fixed row of numbers per token."""

    def __init__(self, rows, gated=False):
        """``rows`` has a list of a row per token for each hook point, by name."""
        self.tables = {name: torch.tensor(row, dtype=torch.float32) for name, row in rows.items()}
        widths = {name.split(".")[-1]: table.shape[1] for name, table in self.tables.items()}
        self.cfg = SimpleNamespace(
            n_layers=1,
            d_mlp=widths["hook_post"],
            d_model=widths.get("hook_resid_post"),
            n_ctx=64,
            device="cpu",
            model_name="by token",
            gated_mlp=gated,
        )
        self.hook_dict = {name: object() for name in self.tables}

    def to_tokens(self, text, truncate=True):
        """Numbers are tokens: ``"1 12"``."""
        return torch.tensor([[int(word) for word in text.split()]])

    def run_with_hooks(self, tokens, return_type=None, fwd_hooks=(), attention_mask=None):
        """Give each hook its activation; padding holds NaN, as in some models."""
        for name, function in fwd_hooks:
            values = self.tables[name][tokens]
            if attention_mask is not None:
                values = values.masked_fill(~attention_mask.bool()[..., None], torch.nan)
            function(values, SimpleNamespace(name=name))

    def run_with_cache(self, *args, **kwargs):
        """Not asked for."""
        raise NotImplementedError

    def hooks(self, *args, **kwargs):
        """Not asked for."""
        raise NotImplementedError
