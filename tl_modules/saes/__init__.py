"""Use latents of sparse autoencoders (SAEs) as units of a model.

A `SplicedModel` adds the hook points of the latents to those of the model.
"""

from tl_modules.saes.spliced import SplicedModel
from tl_modules.saes.splicing import with_saes

__all__ = [
    "SplicedModel",
    "with_saes",
]
