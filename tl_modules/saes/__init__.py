"""Latents of sparse autoencoders as units of a model.

A `SplicedModel` has their hook points besides the model's own.
"""

from tl_modules.saes.spliced import SplicedModel
from tl_modules.saes.splicing import with_saes

__all__ = [
    "SplicedModel",
    "with_saes",
]
