"""From a batch's activations to one number a sample and unit."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float

from tl_modules.errors import ModulesError

_BLOCK = 64
"""Positions added up at once: the order in which torch adds depends on how many there are."""

_Activation = Float[torch.Tensor, "batch pos coordinates"]
_Counted = Bool[torch.Tensor, "_batch _pos"]


class Reduced(NamedTuple):
    """Activations reduced over the tokens of each sample that count, on the device they are on."""

    values: Float[torch.Tensor, "_batch _units"]
    """A value per sample and unit."""

    sums: Float[torch.Tensor, "_batch _coordinates"]
    """Each sample's signed sums, for mean ablation."""


def reduced(
    activation: _Activation, span: int, counted: _Counted, aggregate: str, *, wide: bool = False
) -> Reduced:
    """Reduce one hook point's activations.

    Args:
        activation: The activations, their coordinates on one last axis.
        span: How many coordinates make one unit.
        counted: True where a token counts, of each sample at least one.
        aggregate: One of ``reading.AGGREGATES``.
        wide: Compute in float64, on the CPU, instead of float32: large values then do not overflow.

    Returns:
        Values, float32, and sums.

    Raises:
        ModulesError: If ``counted`` has another shape.
    """
    if activation.shape[:2] != counted.shape:
        raise ModulesError(
            f"attention_mask should have the shape of the tokens, {tuple(activation.shape[:2])}; "
            f"it has {tuple(counted.shape)}."
        )
    activation = _masked(activation, counted, wide)
    sums = _summed(activation)
    values = _aggregated(activation, span, counted.to(activation.device), aggregate)
    return Reduced(values.float(), sums)


def without_overflow(reduce: Callable[[bool], Reduced]) -> Reduced:
    """What a reduction gives in float32, or in float64 where that is not finite.

    Args:
        reduce: The reduction, told whether to be ``wide``.
    """
    found = reduce(False)
    if all(bool(part.isfinite().all()) for part in found):
        return found
    return reduce(True)  # a bfloat16's square, or a sum of large float32


def signed_sums(
    activation: _Activation, counted: _Counted, *, wide: bool = False
) -> Float[torch.Tensor, "batch coordinates"]:
    """Each sample's sums over all tokens that count, alone."""
    return _summed(_masked(activation, counted, wide))


def _masked(activation: _Activation, counted: _Counted, wide: bool) -> _Activation:
    """0 at tokens that do not count: multiplying by 0 would keep padding's NaN."""
    activation = activation.cpu().double() if wide else activation.float()
    return activation.masked_fill(~counted.to(activation.device)[..., None], 0)


def _summed(
    values: Float[torch.Tensor, "batch pos _size"],
) -> Float[torch.Tensor, "batch _size"]:
    """Sums over positions, in one order however far the batch is padded: block after block."""
    wide = torch.float32 if values.device.type == "mps" else torch.float64  # it has no other
    total = torch.zeros_like(values[:, 0], dtype=wide)
    for block in values.split(_BLOCK, dim=1):
        short = _BLOCK - block.shape[1]
        whole = torch.nn.functional.pad(block, (0, 0, 0, short)) if short else block
        total += whole.sum(1)
    return total


def _aggregated(
    activation: _Activation, span: int, counted: _Counted, aggregate: str
) -> Float[torch.Tensor, "batch units"]:
    """From activations that are 0 at tokens that do not count, which it may write over."""
    if aggregate == "fraction_active":
        # NaN is not above 0 either, and is to be refused.
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
