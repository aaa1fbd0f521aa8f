"""Check a model's folder, which may come from anybody, before a model is made from it."""

import json
import re
from collections.abc import Iterator
from math import prod
from pathlib import Path, PurePosixPath
from typing import Any

import torch

from tl_modules.errors import ModulesError
from tl_modules.runtime.memory import check_memory

_MOST = 1000
_COUNTED = re.compile(r"(^|_)(layers?|experts|labels|depths?)$")
"""Settings that give the number of parts that transformers makes, regardless of the weights."""

_REFUSED = ("attribute_map", "sub_configs", "transformers_weights")
"""Settings that would change the meaning of other settings or files."""


def check_model_folder(folder: Path, dtype: torch.dtype, *, several_devices: bool) -> None:
    """Raise if a folder's ``config.json`` describes more weights than its files hold.

    transformers trusts ``config.json``, and fills in random values for missing weights.

    Args:
        folder: The folder.
        dtype: The dtype of the weights in memory.
        several_devices: Whether the model may be distributed over several devices and the disk.

    Raises:
        ModulesError: If the weights are not in safetensors, are fewer than described, or do not fit
            into memory.
        Exception: Any exception of safetensors and transformers on a broken folder.
    """
    # These take seconds to import; loading a model needs them anyway.
    from safetensors import safe_open
    from transformers import AutoConfig, AutoModelForCausalLM, PretrainedConfig
    from transformers.quantizers.auto import AUTO_QUANTIZATION_CONFIG_MAPPING

    n_held, n_bytes = 0, 0
    for path in _weights(folder):
        with safe_open(path, "pt") as file:
            shapes = [file.get_slice(name).get_shape() for name in file.keys()]  # noqa: SIM118
        n_held += sum(map(prod, shapes))
        n_bytes += path.stat().st_size
    settings = PretrainedConfig.get_config_dict(folder)[0]
    for name, value in _settings(settings):
        if name in _REFUSED:
            raise ModulesError(
                f"config.json of {str(folder)!r} should describe a model and no more; it sets "
                f"{name}. Fetch an intact copy."
            )
        if _COUNTED.search(name) and isinstance(value, int | float) and value > _MOST:
            raise ModulesError(
                f"config.json of {str(folder)!r} should ask for at most {_MOST:,} layers, experts "
                f"or labels; it says {name} = {value:,}. Fetch an intact copy."
            )
    config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    with torch.device("meta"):  # shapes only, without memory for the weights
        model = AutoModelForCausalLM.from_config(
            config, trust_remote_code=False, attn_implementation="eager"
        )
    n_described = sum(weight.numel() for weight in model.parameters())
    taken = n_described * dtype.itemsize
    quantised = settings.get("quantization_config")
    method = quantised.get("quant_method") if isinstance(quantised, dict) else None
    if method in AUTO_QUANTIZATION_CONFIG_MAPPING:
        n_held, taken = 4 * n_bytes, n_bytes  # at least two bits each
    if n_described > n_held:
        raise ModulesError(
            f"The files of {str(folder)!r} should hold the {n_described:,} weights that its "
            f"config.json describes; they hold {n_held:,}. Fetch an intact copy."
        )
    if not several_devices:
        taken += sum(buffer.nbytes for buffer in model.buffers())
        remedy = "Load it in bfloat16, or with a device map."
        check_memory(f"The model in {str(folder)!r}", taken, None, remedy)


def _weights(folder: Path) -> list[Path]:
    """Return the files from which transformers reads the weights.

    Raises:
        ModulesError: If they are not safetensors files in the folder.
    """
    single, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    if single.is_file():
        return [single]
    names: list[str] = []
    if index.is_file():
        names = sorted(set(json.loads(index.read_text("utf-8"))["weight_map"].values()))
    paths = [PurePosixPath(name) for name in names]
    inside = all(not path.is_absolute() and ".." not in path.parts for path in paths)
    if not paths or not inside or any(path.suffix != ".safetensors" for path in paths):
        raise ModulesError(
            f"The model in {str(folder)!r} should have its weights in safetensors, in "
            "model.safetensors or listed in model.safetensors.index.json; it does not. Fetch a "
            "copy that does, or save the model again with save_pretrained()."
        )
    return [folder / name for name in names]


def _settings(config: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every setting of a config and its parts by name; lists of lists count as ``layers``."""
    if isinstance(config, dict):
        for key, value in config.items():
            yield key, value
            yield from _settings(value, key)
    elif isinstance(config, list):
        for value in config:
            # In GPT-Neo's attention_types, [[["global"], 12]] stands for 12 layers.
            nested = "layers" if isinstance(value, list) else name
            yield nested, value
            yield from _settings(value, nested)
