"""SAEs made for tests, and short ways to run a model with them."""

import warnings
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

import tl_modules as tlm
from tests.conftest import LEGACY

RESID = "blocks.{}.hook_resid_post"
LATENTS = RESID + ".hook_sae_acts_post"
D_SAE = 24
NO_SAMPLES = pd.DataFrame({"prompt": [], "category": []})
NEEDS_SAELENS = "SAELens cannot be imported with TransformerLens 4"


def config(hook_name, d_in, d_sae, **more):
    metadata = SimpleNamespace(hook_name=hook_name)
    return SimpleNamespace(d_in=d_in, d_sae=d_sae, metadata=metadata, **more)


class Random(torch.nn.Module):
    """ReLU latents of random weights: an SAE with a large error."""

    def __init__(self, hook_name, d_in=16, d_sae=D_SAE, seed=0):
        super().__init__()
        self.cfg = config(hook_name, d_in, d_sae)
        random = torch.Generator().manual_seed(seed)
        shapes = {
            "W_enc": (d_in, d_sae),
            "b_enc": (d_sae,),
            "W_dec": (d_sae, d_in),
            "b_dec": (d_in,),
        }
        for name, shape in shapes.items():
            values = 0.5 * torch.randn(shape, generator=random)
            self.register_parameter(name, torch.nn.Parameter(values))

    def encode(self, x):
        return ((x - self.b_dec) @ self.W_enc + self.b_enc).relu()

    def decode(self, latents):
        return latents @ self.W_dec + self.b_dec


class Scaled(Random):
    """Like SAELens' run-time normalisation: ``decode`` uses up what ``encode`` noted."""

    def encode(self, x):
        self.scale = x.norm(dim=-1, keepdim=True)
        return super().encode(x / self.scale)

    def decode(self, latents):
        rebuilt = super().decode(latents) * self.scale
        del self.scale
        return rebuilt


class Signed(torch.nn.Module):
    """Without error: each dimension's positive part, then each one's negative part."""

    def __init__(self, hook_name, d_in=16):
        super().__init__()
        self.cfg = config(hook_name, d_in, 2 * d_in)

    def encode(self, x):
        return torch.cat([x.relu(), (-x).relu()], -1)

    def decode(self, latents):
        positive, negative = latents.chunk(2, -1)
        return positive - negative


def saelens():
    if not LEGACY:
        pytest.skip(NEEDS_SAELENS)
    with warnings.catch_warnings():
        # Its imports go through a module that TransformerLens 3.9 deprecates.
        warnings.filterwarnings("ignore", "The 'utils' module", DeprecationWarning)
        import sae_lens
    return sae_lens


def theirs(kind, hook_name, seed):
    """One of SAELens' SAEs, made by its configuration."""
    library = saelens()
    options = {"d_in": 16, "d_sae": D_SAE}
    if kind == "topk":
        sae = library.TopKSAE(library.TopKSAEConfig(**options, k=5))
    elif kind == "jumprelu":
        sae = library.JumpReLUSAE(library.JumpReLUSAEConfig(**options))
    else:
        config = library.StandardSAEConfig(**options, normalize_activations=kind)
        sae = library.StandardSAE(config)
    sae.cfg.metadata.hook_name = hook_name
    random = torch.Generator().manual_seed(seed)
    for name, values in sae.named_parameters():
        values.data = 0.5 * torch.randn(values.shape, generator=random)
        if name == "threshold":
            values.data = values.data.abs()
    return sae


OURS = {"random": Random, "scaled": Scaled}
THEIRS = [
    "none",
    "expected_average_only_in",
    "layer_norm",
    "constant_norm_rescale",
    "topk",
    "jumprelu",
]


def make_saes(kind, layers=range(3)):
    if kind in OURS:
        return [OURS[kind](RESID.format(layer), seed=layer) for layer in layers]
    return [theirs(kind, RESID.format(layer), seed=layer) for layer in layers]


def run(model, tokens, hooks=(), **options):
    with torch.inference_mode():
        return model.run_with_hooks(tokens, fwd_hooks=list(hooks), **options)


def read(model, tokens, name, hooks=(), **options):
    """What the run has at a hook point, after hooks."""
    found = {}
    run(model, tokens, [*hooks, (name, lambda a, hook: found.update(a=a.clone()))], **options)
    return found["a"]


def attached_hooks(model):
    return [name for name, point in model.hook_dict.items() if point._forward_hooks]


def latents_of(units, index, layer=0):
    """Some latents of a layer, as a module."""
    chosen = (units.hook == layer) & np.isin(units.index, index)
    return tlm.Module(0, units.select(chosen), NO_SAMPLES)
