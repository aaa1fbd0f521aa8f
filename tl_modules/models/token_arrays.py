"""Convert token ids and masks from tensors, NumPy arrays or lists to tensors."""

from collections.abc import Sequence
from typing import Annotated, Any

import numpy as np
import torch
from jaxtyping import Bool, Int, Shaped

from tl_modules.errors import ModulesError
from tl_modules.runtime.arguments import Remedy

TokenArray = Shaped[torch.Tensor, "..."] | Shaped[np.ndarray, "..."] | Sequence[Any]
"""Token ids or a mask, ``[batch, pos]`` or ``[pos]`` (one prompt): a tensor, a NumPy array or
lists."""

_REMEDY = "Use model.to_tokens(prompts)."

Tokens = Annotated[TokenArray, Remedy(_REMEDY)]
"""Token ids, ``[batch, pos]`` or ``[pos]``."""


def as_mask(name: str, mask: TokenArray | None) -> Bool[torch.Tensor, "batch pos"] | None:
    """Convert a mask to booleans on the CPU.

    Args:
        name: The mask's name in messages.
        mask: 1 or True at the tokens to use, ``[batch, pos]`` or ``[pos]``; None for no mask.

    Returns:
        The mask, ``[batch, pos]``, or None.

    Raises:
        ModulesError: If the mask has another shape, rows of different lengths, or other values.

    >>> as_mask("attention_mask", [[1, 1], [1, 0]])
    tensor([[ True,  True],
            [ True, False]])
    """
    if mask is None:
        return None
    values = _with_batch_axis(name, mask, "Pass the tokenizer's attention_mask (padding=True).")
    if values.dtype != torch.bool and not bool(((values == 0) | (values == 1)).all()):
        raise ModulesError(
            f"{name} should be 1 or True at the tokens to use and 0 or False elsewhere; it holds "
            "other values. Pass the tokenizer's attention_mask, not a mask that is added to "
            "attention scores."
        )
    return values.bool().cpu()


def as_tokens(name: str, tokens: TokenArray) -> Int[torch.Tensor, "batch pos"]:
    """Convert token ids to a tensor, on the device that they are on.

    Args:
        name: The name of the ids in messages.
        tokens: Token ids, ``[batch, pos]`` or ``[pos]``.

    Returns:
        The ids, ``[batch, pos]``.

    Raises:
        ModulesError: If the ids are not whole numbers, have another shape or rows of different
            lengths, or if there are none.
    """
    ids = _with_batch_axis(name, tokens, _REMEDY)
    if not ids.numel():
        raise ModulesError(
            f"Tokens should have shape batch x pos, with at least one of each; {name} has "
            f"{tuple(ids.shape)}. {_REMEDY}"
        )
    if ids.dtype == torch.bool or ids.is_floating_point() or ids.is_complex():
        raise ModulesError(f"{name} should hold token ids; they are {ids.dtype}. {_REMEDY}")
    return ids.long()


def as_tensor(name: str, values: Any, remedy: str) -> Shaped[torch.Tensor, "..."]:
    """Convert numbers or booleans to a tensor.

    Args:
        name: The name of the values in messages.
        values: A tensor, a NumPy array, or lists of numbers.
        remedy: The remedy in messages.

    Returns:
        The tensor itself, or a new tensor of int64, float64 or bool.

    Raises:
        ModulesError: If the values are neither, or lists of different lengths.
    """
    if isinstance(values, torch.Tensor):
        return values
    try:
        array = np.asarray(values)
    except (ValueError, TypeError, RuntimeError) as error:  # lists of different lengths
        raise ModulesError(
            f"{name} should hold numbers, equally many in each row; it cannot be converted "
            f"({error}). {remedy}"
        ) from error
    kinds = {"b": np.bool_, "i": np.int64, "u": np.int64, "f": np.float64}
    if array.dtype.kind not in kinds:
        shown = repr(values) if isinstance(values, str) else type(values).__name__
        raise ModulesError(f"{name} should hold numbers; got {shown}. {remedy}")
    return torch.from_numpy(np.array(array, dtype=kinds[array.dtype.kind]))


def _with_batch_axis(name: str, values: Any, remedy: str) -> Shaped[torch.Tensor, "batch pos"]:
    """Convert values to a tensor of shape ``[batch, pos]``; ``[pos]`` gets a batch axis."""
    tensor = as_tensor(name, values, remedy)
    if tensor.ndim == 1:
        tensor = tensor[None]
    if tensor.ndim != 2:
        raise ModulesError(
            f"{name} should have shape batch x pos; got {tuple(tensor.shape)}. {remedy}"
        )
    return tensor
