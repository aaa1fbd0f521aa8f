"""From a batch's activations to one number per sample and unit."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int

from tl_modules.errors import ModulesError

_BLOCK = 64
"""Positions added at once. Torch adds in an order that depends on the number of positions; with
blocks of a fixed size the order does not depend on a batch's padding."""

_Activation = Float[torch.Tensor, "batch pos coordinates"]
_Counted = Bool[torch.Tensor, "_batch _pos"]


LeftOut = tuple[Int[torch.Tensor, " _places"], Int[torch.Tensor, " _places"]]
"""The rows and positions of tokens that count and are not content."""


class Reduced(NamedTuple):
    """Activations reduced over each sample's tokens that count, on the activations' device."""

    values: Float[torch.Tensor, "_batch _units"]
    """One value per sample and unit."""

    sums: Float[torch.Tensor, "_batch 2 _coordinates"]
    """Each sample's signed sums, for mean ablation: over the tokens that count, and over the
    content among them (see ``models.content_tokens``)."""

    n_content: Int[torch.Tensor, " _batch"]
    """How many tokens of each sample are content; on the CPU."""


def left_out(counted: _Counted, content: _Counted) -> LeftOut:
    """Find the tokens that count and are not content.

    Args:
        counted: True where a token counts.
        content: True at content.

    Returns:
        Their rows and positions, on the CPU: a GPU is not waited for.
    """
    rows, positions = (counted.cpu() & ~content.cpu()).nonzero(as_tuple=True)
    return rows, positions


def reduced(
    activation: _Activation,
    span: int,
    counted: _Counted,
    left: LeftOut,
    aggregate: str,
    *,
    wide: bool = False,
) -> Reduced:
    """Reduce one hook point's activations.

    Args:
        activation: The activations, with all coordinates on the last axis.
        span: Number of coordinates per unit.
        counted: True where a token counts; at least one token per sample.
        left: The tokens among them that the second sums leave out.
        aggregate: One of ``reading.AGGREGATES``.
        wide: Compute in float64 on the CPU instead of float32, so that large values do not
            overflow.

    Returns:
        Values, float32, and sums.

    Raises:
        ModulesError: If ``counted`` does not have the activations' shape.
    """
    if activation.shape[:2] != counted.shape:
        raise ModulesError(
            f"attention_mask should have the shape of the tokens, {tuple(activation.shape[:2])}; "
            f"got {tuple(counted.shape)}. Pass the mask of the tokens that were run."
        )
    activation = _masked(activation, counted, wide)
    sums = _both_sums(activation, left)
    values = _aggregated(activation, span, counted.to(activation.device), aggregate)
    n_content = counted.cpu().sum(1) - left[0].bincount(minlength=len(counted))
    return Reduced(values.float(), sums, n_content)


def without_overflow(reduce: Callable[[bool], Reduced]) -> Reduced:
    """Reduce in float32, and again in float64 if a result is not finite.

    float32 overflows at squares of large bfloat16 values and at sums of large float32 values.

    Args:
        reduce: The reduction; its argument is ``wide``.
    """
    result = reduce(False)
    if all(bool(part.isfinite().all()) for part in result):
        return result
    return reduce(True)


def signed_sums(
    activation: _Activation, counted: _Counted, left: LeftOut, *, wide: bool = False
) -> Float[torch.Tensor, "batch 2 coordinates"]:
    """Each sample's sums as ``Reduced`` has them, without any other reduction."""
    return _both_sums(_masked(activation, counted, wide), left)


def _both_sums(
    activation: _Activation, left: LeftOut
) -> Float[torch.Tensor, "batch 2 coordinates"]:
    """The sums over all tokens, and over all but those left out."""
    total = _summed(activation)
    rows, positions = (part.to(activation.device) for part in left)
    values = activation[rows, positions].to(total.dtype)
    return torch.stack([total, total.index_add(0, rows, values, alpha=-1)], dim=1)


def _masked(activation: _Activation, counted: _Counted, wide: bool) -> _Activation:
    """Set activations to 0 at tokens that do not count."""
    # Multiplying by the mask would keep NaN values, which padding may have.
    activation = activation.cpu().double() if wide else activation.float()
    return activation.masked_fill(~counted.to(activation.device)[..., None], 0)


def _summed(
    values: Float[torch.Tensor, "batch pos _size"],
) -> Float[torch.Tensor, "batch _size"]:
    """Sums over positions, block after block, so that padding does not change the order."""
    wide = torch.float32 if values.device.type == "mps" else torch.float64  # MPS has no float64
    total = torch.zeros_like(values[:, 0], dtype=wide)
    for block in values.split(_BLOCK, dim=1):
        short = _BLOCK - block.shape[1]
        whole = torch.nn.functional.pad(block, (0, 0, 0, short)) if short else block
        total += whole.sum(1)
    return total


def _aggregated(
    activation: _Activation, span: int, counted: _Counted, aggregate: str
) -> Float[torch.Tensor, "batch units"]:
    """Aggregate over positions; the activations are 0 at tokens that do not count.

    The activations may be overwritten.
    """
    if aggregate == "fraction_active":
        # NaN > 0 is False, so NaN is put back: a later check refuses it.
        sizes = (activation > 0).float().masked_fill(~activation.isfinite(), torch.nan)
    elif span == 1:
        sizes = activation.abs_()
    else:
        sizes = activation.unflatten(-1, (-1, span)).norm(dim=-1)
    if aggregate == "max":
        return sizes.amax(1)
    if aggregate == "rms":
        sizes = sizes.square()
    means = _summed(sizes) / counted.sum(1, keepdim=True)
    return means.sqrt() if aggregate == "rms" else means
