"""The model worked out by hand, with a tokenizer: token 7 is special, the others are digits."""

from dataclasses import replace

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
