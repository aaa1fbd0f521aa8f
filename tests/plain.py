"""A hooked model in plain torch, for processes that should not wait for TransformerLens."""

import contextlib
import time
from types import SimpleNamespace

import torch

N_LAYERS, WIDTH = 2, 24


class Plain:
    """Two layers of neurons, each a fixed function of the token; slow on request."""

    def __init__(self, delay_s=0.0, bad_token=None, width=WIDTH):
        """Make its weights, the same ones each time."""
        self.cfg = SimpleNamespace(
            n_layers=N_LAYERS, d_mlp=width, n_ctx=64, device="cpu", model_name="plain"
        )
        self.hook_dict = {f"blocks.{layer}.mlp.hook_post": object() for layer in range(N_LAYERS)}
        generator = torch.Generator().manual_seed(0)
        self.weights = torch.randn(N_LAYERS, 10, width, generator=generator)
        self.delay_s, self.bad_token = delay_s, bad_token

    def named_parameters(self):
        """For the fingerprint."""
        return [("weights", self.weights)]

    def to_tokens(self, text, truncate=True):
        """Digits are tokens: ``"1 2"``."""
        return torch.tensor([[int(word) for word in text.split()]])

    def run_with_hooks(self, tokens, return_type=None, fwd_hooks=(), attention_mask=None):
        """Give each hook its activation."""
        time.sleep(self.delay_s)
        hooks = dict(fwd_hooks)
        for layer, name in enumerate(self.hook_dict):
            activation = self.weights[layer][tokens]
            if self.bad_token is not None:
                activation = activation.masked_fill(
                    (tokens == self.bad_token)[..., None], torch.nan
                )
            if name in hooks:
                hooks[name](activation, SimpleNamespace(name=name))

    def run_with_cache(self, *args, **kwargs):
        """Not asked for."""
        raise NotImplementedError

    @contextlib.contextmanager
    def hooks(self, *args, **kwargs):
        """Not asked for."""
        raise NotImplementedError
        yield


def digits(n_prompts):
    """Prompts of 2 to 12 tokens."""
    return [
        " ".join(str((prompt * 7 + word) % 9 + 1) for word in range(prompt % 11 + 2))
        for prompt in range(n_prompts)
    ]
