"""From a batch's activations to one number a sample and unit."""

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float

from tl_modules.errors import ModulesError

_Activation = Float[torch.Tensor, "batch pos coordinates"]
_Counted = Bool[torch.Tensor, "_batch _pos"]


class Reduced(NamedTuple):
    """One hook point's activations, reduced over the tokens of each sample that count."""

    values: Float[np.ndarray, "_batch _units"]
    """A value per sample and unit."""

    totals: Float[np.ndarray, " _coordinates"]
    """The signed sum over all tokens of all samples, for mean ablation."""


def reduced(activation: _Activation, span: int, counted: _Counted, aggregate: str) -> Reduced:
    """Reduce one hook point's activations, in float32.

    Args:
        activation: The activations, their coordinates on one last axis.
        span: How many coordinates make one unit.
        counted: True where a token counts.
        aggregate: One of ``reading.AGGREGATES``.

    Returns:
        Values and totals.

    Raises:
        ModulesError: If ``counted`` has another shape, or a sample has no token that counts.
    """
    if activation.shape[:2] != counted.shape:
        raise ModulesError(
            f"attention_mask should have the shape of the tokens, {tuple(activation.shape[:2])}; "
            f"it has {tuple(counted.shape)}."
        )
    if not bool(counted.any(1).all()):
        row = int((~counted.any(1)).nonzero()[0, 0])
        raise ModulesError(
            f"Every sample should have at least one token; row {row} of the attention mask is "
            "empty. Drop that sample."
        )
    activation = _masked(activation, counted)
    values = _aggregated(activation, span, counted, aggregate)
    return Reduced(values.cpu().numpy(), activation.sum((0, 1)).cpu().numpy())


def totals(activation: _Activation, counted: _Counted) -> Float[np.ndarray, " coordinates"]:
    """The signed sums over all tokens that count, alone."""
    return _masked(activation, counted).sum((0, 1)).cpu().numpy()


def _masked(activation: _Activation, counted: _Counted) -> _Activation:
    """In float32, 0 at tokens that do not count: multiplying by 0 would keep padding's NaN."""
    return activation.float().masked_fill(~counted.to(activation.device)[..., None], 0)


def _aggregated(
    activation: _Activation, span: int, counted: _Counted, aggregate: str
) -> Float[torch.Tensor, "batch units"]:
    """From activations that are 0 at tokens that do not count."""
    if aggregate == "fraction_active":
        sizes = (activation > 0).float()
    elif span == 1:
        sizes = activation.abs()
    else:
        sizes = activation.unflatten(-1, (-1, span)).norm(dim=-1)
    if aggregate == "max":
        return sizes.amax(1)
    if aggregate == "rms":
        sizes = sizes.square()
    means = sizes.sum(1) / counted.sum(1, keepdim=True).to(sizes.device)
    return means.sqrt() if aggregate == "rms" else means
