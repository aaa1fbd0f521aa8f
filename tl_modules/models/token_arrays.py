"""Token ids and masks in whatever form a tokenizer or NumPy gives them."""

from collections.abc import Sequence
from typing import Annotated, Any

import numpy as np
import torch
from jaxtyping import Bool, Int, Shaped

from tl_modules.errors import ModulesError
from tl_modules.runtime.arguments import Remedy

TokenArray = Shaped[torch.Tensor, "..."] | Shaped[np.ndarray, "..."] | Sequence[Any]
"""Token ids or a mask, ``[batch, pos]``: a tensor, a NumPy array or lists; ``[pos]`` is one
prompt's."""

_REMEDY = "Use model.to_tokens(prompts)."

Tokens = Annotated[TokenArray, Remedy(_REMEDY)]
"""Token ids, ``[batch, pos]`` or ``[pos]``."""


def as_mask(name: str, mask: TokenArray | None) -> Bool[torch.Tensor, "batch pos"] | None:
    """A mask as booleans on the CPU.

    Args:
        name: What it is called in messages.
        mask: 1 or True where a token is meant, ``[batch, pos]`` or ``[pos]``; None for none.

    Returns:
        The mask, ``[batch, pos]``, or None.

    Raises:
        ModulesError: If it has another shape, rows of several lengths, or other values.

    >>> as_mask("attention_mask", [[1, 1], [1, 0]])
    tensor([[ True,  True],
            [ True, False]])
    """
    if mask is None:
        return None
    found = _rows(name, mask, "Pass the tokenizer's attention_mask (padding=True).")
    if found.dtype != torch.bool and not bool(((found == 0) | (found == 1)).all()):
        raise ModulesError(
            f"{name} should be 1 or True at the tokens that are meant and 0 or False elsewhere; it "
            "holds other values. A mask that is added to attention scores is not one."
        )
    return found.bool().cpu()


def as_tokens(name: str, tokens: TokenArray) -> Int[torch.Tensor, "batch pos"]:
    """Token ids as a tensor, on the device that they are on.

    Args:
        name: What they are called in messages.
        tokens: Token ids, ``[batch, pos]`` or ``[pos]``.

    Returns:
        The ids, ``[batch, pos]``.

    Raises:
        ModulesError: If they are no whole numbers, have another shape, rows of several lengths, or
            there is none.
    """
    found = _rows(name, tokens, _REMEDY)
    if not found.numel():
        raise ModulesError(
            f"Tokens should have shape batch x pos, with at least one of each; {name} has "
            f"{tuple(found.shape)}. {_REMEDY}"
        )
    if found.dtype == torch.bool or found.is_floating_point() or found.is_complex():
        raise ModulesError(f"{name} should hold token ids; they are {found.dtype}. {_REMEDY}")
    return found.long()


def as_tensor(name: str, values: Any, remedy: str) -> Shaped[torch.Tensor, "..."]:
    """Numbers or booleans as a tensor.

    Args:
        name: What they are called in messages.
        values: A tensor, a NumPy array, or lists of numbers.
        remedy: What to pass instead.

    Returns:
        The tensor: int64, float64 or bool where it was none.

    Raises:
        ModulesError: If they are neither, or lists of several lengths.
    """
    if isinstance(values, torch.Tensor):
        return values
    try:
        array = np.asarray(values)
    except (ValueError, TypeError, RuntimeError) as error:  # lists of several lengths
        raise ModulesError(
            f"{name} should hold numbers, as many in each row; it cannot be read ({error}). "
            f"{remedy}"
        ) from error
    kinds = {"b": np.bool_, "i": np.int64, "u": np.int64, "f": np.float64}
    if array.dtype.kind not in kinds:
        shown = repr(values) if isinstance(values, str) else type(values).__name__
        raise ModulesError(f"{name} should hold numbers; got {shown}. {remedy}")
    return torch.from_numpy(np.array(array, dtype=kinds[array.dtype.kind]))


def _rows(name: str, values: Any, remedy: str) -> Shaped[torch.Tensor, "batch pos"]:
    """The same of shape ``[batch, pos]``; a single prompt's gets its batch axis."""
    found = as_tensor(name, values, remedy)
    if found.ndim == 1:
        found = found[None]
    if found.ndim != 2:
        raise ModulesError(
            f"{name} should have shape batch x pos; got {tuple(found.shape)}. {remedy}"
        )
    return found
