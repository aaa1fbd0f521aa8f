"""Run hooked models: tokens, losses, gradients, generated text.

Only this package knows TransformerLens' interface.
"""

from tl_modules.models.hooked_model import HookedModel

__all__ = [
    "HookedModel",
]
