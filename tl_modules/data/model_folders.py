"""Folders of models may come from anybody: their sizes are compared before a model is made."""

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
"""Settings of which transformers makes as many things as they say, whatever the weights are."""

_REFUSED = ("attribute_map", "sub_configs", "transformers_weights")
"""Settings that would make others, or other files, mean something else."""


def check_model_folder(folder: Path, dtype: torch.dtype, *, spread: bool) -> None:
    """Refuse a folder whose ``config.json`` describes a larger model than its weights are.

    transformers believes ``config.json``, and gives random weights to what the files do not hold.

    Args:
        folder: The folder.
        dtype: Of the weights in memory.
        spread: Whether the model may also go to several devices and the disk.

    Raises:
        ModulesError: If the weights are not in safetensors, are fewer than described, or do not fit
            into memory.
        Exception: Whatever safetensors and transformers raise on a broken folder.
    """
    # All take seconds to import; whoever loads a model needs them anyway.
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
    with torch.device("meta"):  # shapes alone
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
            f"config.json of {str(folder)!r} describes {n_described:,} weights, but its files hold "
            f"{n_held:,}. Fetch an intact copy."
        )
    if not spread:
        taken += sum(buffer.nbytes for buffer in model.buffers())
        remedy = "Load it in bfloat16, or with a device map."
        check_memory(f"The model in {str(folder)!r}", taken, None, remedy)


def _weights(folder: Path) -> list[Path]:
    """The files that transformers reads the weights from.

    Raises:
        ModulesError: If they are no safetensors in the folder.
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
            "model.safetensors or listed in model.safetensors.index.json; it has not. Fetch a copy "
            "that has, or save it anew with save_pretrained()."
        )
    return [folder / name for name in names]


def _settings(found: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Every setting of a config and its parts by name; in a list of lists, by ``layers``."""
    if isinstance(found, dict):
        for key, value in found.items():
            yield key, value
            yield from _settings(value, key)
    elif isinstance(found, list):
        for value in found:
            # GPT-Neo's attention_types: [[["global"], 12]] are 12 layers.
            nested = "layers" if isinstance(value, list) else name
            yield nested, value
            yield from _settings(value, nested)
