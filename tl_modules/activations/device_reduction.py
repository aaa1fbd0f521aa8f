"""From a batch's activations to one number per sample and unit, in few kernels on a device.

``aggregate`` adds in a fixed order in float64, in a dozen kernels and more per hook point. Here
torch's own reductions read 16-bit activations and accumulate in float32, in the order that the
device chooses. Nothing is copied from the device, so Python never waits for it. What is not finite
remains so in the results: the caller computes that batch again by ``aggregate``.
"""

import torch
from jaxtyping import Bool, Float

from tl_modules.activations.reading import Aggregate

_Activation = Float[torch.Tensor, "batch pos coordinates"]


class CountedTokens:
    """The tokens of one batch that count, on the devices where activations are reduced."""

    def __init__(
        self,
        counted: Bool[torch.Tensor, "batch pos"],
        content: Bool[torch.Tensor, "batch pos"],
        *,
        all_count: bool,
    ) -> None:
        """Prepare for one batch.

        Args:
            counted: True where a token counts, on the model's device.
            content: True at the content among them, on the same device.
            all_count: Whether every position counts, as in a batch without padding.
        """
        self.counted = counted
        self.content = content
        self._all_count = all_count
        self._prepared: dict[tuple[torch.device, torch.dtype], torch.Tensor] = {}

    def masked(self, activation: _Activation) -> _Activation:
        """Set activations to 0 at tokens that do not count; padding may hold NaN."""
        if self._all_count:
            return activation
        return activation.masked_fill(self._on(activation.device, torch.bool), 0)

    def sums(self, masked: _Activation) -> Float[torch.Tensor, "2 coordinates"]:
        """Signed sums over the batch's tokens that count, and over the content among them."""
        if _multiplies_into_float32(masked):
            weights = self._on(masked.device, masked.dtype)
            sums = torch.bmm(weights, masked, out_dtype=torch.float32)
        else:
            dtype = _accumulated(masked)
            sums = torch.bmm(self._on(masked.device, dtype), masked.to(dtype))
        return sums.sum(0, dtype=widest(masked.device))

    def averaged(
        self, sizes: Float[torch.Tensor, "batch units"], aggregate: Aggregate
    ) -> Float[torch.Tensor, "batch units"]:
        """Divide what ``token_sizes`` returned by the number of tokens, as the aggregate asks."""
        if aggregate == "max":
            return sizes
        n_counted = self.counted.sum(1, keepdim=True).to(sizes)
        return sizes / (n_counted.sqrt() if aggregate == "rms" else n_counted)

    def _on(self, device: torch.device, dtype: torch.dtype) -> torch.Tensor:
        """What does not count, as bool; or the weights of both sums, in the activations' dtype.

        Made once per batch and device: a model's layers may lie on several devices.
        """
        if (device, dtype) not in self._prepared:
            made = (
                ~self.counted[..., None]
                if dtype == torch.bool
                else torch.stack([self.counted, self.content], dim=1)
            )
            self._prepared[device, dtype] = made.to(device, dtype, non_blocking=True)
        return self._prepared[device, dtype]


def token_sizes(
    masked: _Activation, span: int, aggregate: Aggregate
) -> Float[torch.Tensor, "batch units"]:
    """Reduce one hook point's activations over tokens, except for ``CountedTokens.averaged``.

    Args:
        masked: The activations, 0 at tokens that do not count.
        span: Number of coordinates per unit.
        aggregate: The aggregate over tokens.

    Returns:
        Each unit's sum of sizes, root of the sum of squares, largest size, or number of tokens
        where it is active (0 at NaN, which the signed sums show). float32; float64 of float64.
    """
    norm, dtype = torch.linalg.vector_norm, _accumulated(masked)
    if aggregate == "fraction_active":
        return (masked > 0).sum(1, dtype=dtype)
    order = {"mean": 1, "rms": 2, "max": torch.inf}[aggregate]
    if span == 1:
        return norm(masked, order, dim=1, dtype=dtype)
    units = masked.unflatten(-1, (-1, span))
    if aggregate == "rms":
        return norm(units, order, dim=(1, 3), dtype=dtype)
    return norm(norm(units, dim=-1, dtype=dtype), order, dim=1)


def widest(device: torch.device) -> torch.dtype:
    """The widest dtype of a device: Apple's GPUs have no float64."""
    return torch.float32 if device.type == "mps" else torch.float64


def _accumulated(masked: _Activation) -> torch.dtype:
    """The dtype in which these values are added up."""
    return torch.promote_types(masked.dtype, torch.float32)


def _multiplies_into_float32(masked: _Activation) -> bool:
    """Whether torch multiplies these 16-bit values into float32 without a float32 copy of them.

    CUDA does, and XPU, since torch 2.8.
    """
    return (
        masked.device.type in ("cuda", "xpu", "meta")
        and masked.dtype in (torch.bfloat16, torch.float16)
        and "dtype" in torch.ops.aten.bmm.overloads()
    )
