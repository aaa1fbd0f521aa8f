"""Models by name, for the command line."""

import os
from pathlib import Path

from tl_modules.data.demo_model import load_demo_model
from tl_modules.errors import ModulesError
from tl_modules.model import HookedModel

DEMO = "demo"


def load_model(name: str) -> HookedModel:
    """The demo model, or any Hugging Face model as a TransformerBridge.

    Args:
        name: ``"demo"``, or a name or folder that ``AutoModelForCausalLM`` takes.

    Returns:
        The model in eval mode.

    Raises:
        ModulesError: If it cannot be loaded.
    """
    if name == DEMO or Path(name).is_dir():
        os.environ.setdefault("HF_HUB_OFFLINE", "1")  # all of it is on disk
    if name == DEMO:
        return load_demo_model()
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
