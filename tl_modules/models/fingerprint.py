"""Compute a checksum of a model; models whose weights differ have different checksums."""

import hashlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from jaxtyping import Int, Integer, Shaped

from tl_modules.models.hooked_model import HookedModel, model_name, roots, saes_of

_BLOCK = 2**16
_AT_ONCE = {"cpu": 2**18}
"""The number of values that are converted to 64 bits at a time, by device. On a CPU they stay in
its cache. The sum does not depend on this number."""
_ELSEWHERE = 2**22

_WORDS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
"""The integer type of a value's bits, by the value's size in bytes."""


def fingerprint(model: HookedModel) -> str:
    """Compute a checksum of the names, shapes, dtypes and values of parameters and buffers.

    The SAEs of a ``SplicedModel`` are included. Values are summed on their own device in one pass;
    the device and the number of threads do not affect the result.

    If a tensor is on the meta device, as in a model that is partly on disk, the checksum does not
    include values, because the parts in memory may change. Two such models of the same architecture
    have the same checksum.

    Args:
        model: The model.

    Returns:
        The SHA-256 digest in hexadecimal.
    """
    digest = hashlib.sha256(model_name(model).encode(errors="backslashreplace"))
    tensors = list(_tensors(model))
    in_memory = not any(tensor.is_meta for _, tensor in tensors)
    sums: dict[int, int] = {}  # a bridge and the model that it wraps share their tensors
    for name, tensor in tensors:
        value = None
        if in_memory:
            value = sums[id(tensor)] = sums.get(id(tensor)) or value_sum(tensor)
        digest.update(f"{name}|{tuple(tensor.shape)}|{tensor.dtype}|{value}\n".encode())
    for name, sae in saes_of(model).items():
        digest.update(f"{name}|{_plain(sae.cfg)}\n".encode())
    return digest.hexdigest()


def value_sum(tensor: Shaped[torch.Tensor, "..."]) -> int:
    """Sum each value's bits, as an integer, times an odd multiplier of its place, modulo 2^64.

    A change of one value always changes the sum, because odd numbers have inverses modulo 2^64.
    Several changes, such as an exchange of two values, keep the sum with a probability of 2^-64.

    Args:
        tensor: A tensor on any device but ``"meta"``, of any dtype and strides.

    Returns:
        The sum, from -2^63 to below 2^63.

    >>> one = torch.tensor([1.0, 2.0])
    >>> value_sum(one) == value_sum(one.flip(0))
    False
    """
    words = _words(tensor.detach())
    within = _multipliers(0, _BLOCK).to(words.device)
    total = torch.zeros((), dtype=torch.int64, device=words.device)
    at_once = _AT_ONCE.get(words.device.type, _ELSEWHERE)
    for start in range(0, words.numel(), at_once):
        values = _flat(words, start, min(start + at_once, words.numel())).to(torch.int64)
        # All blocks share one list of multipliers; each block's sum has its own multiplier. Lists
        # for all places would take as much memory as the model.
        whole = len(values) // _BLOCK * _BLOCK
        sums = (values[:whole].view(-1, _BLOCK) * within).sum(1)
        rest = values[whole:]
        sums = torch.cat([sums, (rest * within[: len(rest)]).sum()[None]])
        total += (sums * _multipliers(_BLOCK + start // _BLOCK, len(sums)).to(sums.device)).sum()
    return int(total)


def _words(tensor: Shaped[torch.Tensor, "..."]) -> Integer[torch.Tensor, "..."]:
    """Return a tensor's bits as integers: a copy if it is sparse or quantized, else a view."""
    if tensor.is_quantized:
        tensor = tensor.dequantize()
    if tensor.layout is not torch.strided:
        tensor = tensor.to_dense()
    if tensor.is_complex():
        tensor = torch.view_as_real(tensor.resolve_conj())
    return tensor.resolve_neg().view(_WORDS[tensor.element_size()])


def _flat(
    words: Integer[torch.Tensor, "..."], start: int, stop: int
) -> Integer[torch.Tensor, " values"]:
    """Return some of a tensor's values in order, without copying all of them."""
    if words.is_contiguous():
        return words.view(-1)[start:stop]
    if words.numel() <= _BLOCK:
        return words.flatten()[start:stop]
    places = torch.arange(start, stop, device=words.device)
    return words[torch.unravel_index(places, words.shape)]


def _multipliers(first: int, n: int) -> Int[torch.Tensor, " n"]:
    """Return pseudorandom odd numbers of 64 bits (SplitMix64, Steele et al. 2014)."""
    state = (np.arange(first + 1, first + n + 1, dtype=np.uint64)) * np.uint64(0x9E3779B97F4A7C15)
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return torch.from_numpy(((state ^ (state >> np.uint64(31))) | np.uint64(1)).view(np.int64))


def _tensors(model: HookedModel) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield all parameters and buffers with their names."""
    for root, part in roots(model).items():
        yield from ((f"{root}|{name}", tensor) for name, tensor in _own_tensors(part))


def _own_tensors(part: Any) -> Iterator[tuple[str, torch.Tensor]]:
    kinds = [getattr(part, kind, None) for kind in ("named_parameters", "named_buffers")]
    for named in kinds:
        if named is not None:
            yield from named()
    if not any(kinds):  # an SAE that is no torch.nn.Module
        for name, value in getattr(part, "__dict__", {}).items():
            if isinstance(value, torch.Tensor):
                yield name, value


def _plain(cfg: Any) -> Mapping[str, str]:
    """Return the numbers and texts of an SAE's configuration, without its device."""
    fields = vars(cfg) if hasattr(cfg, "__dict__") else {}
    return {
        name: repr(value)
        for name, value in sorted(fields.items())
        if isinstance(value, bool | int | float | str) and name != "device"
    }
