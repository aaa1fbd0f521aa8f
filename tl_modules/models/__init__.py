"""What the package asks of a hooked model: tokens, losses, gradients, generated text.

Only this room knows TransformerLens' interface.
"""

from tl_modules.models.hooked_model import HookedModel

__all__ = [
    "HookedModel",
]
