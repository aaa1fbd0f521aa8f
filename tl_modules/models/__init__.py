"""Run hooked models: tokens, losses, gradients, generated text.

Only this package knows TransformerLens' interface.
"""

from tl_modules.models.hooked_model import HookedModel
from tl_modules.models.twins import untrained_twin

__all__ = [
    "HookedModel",
    "untrained_twin",
]
