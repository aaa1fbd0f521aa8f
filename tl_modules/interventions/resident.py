"""Tensors that are copied to a device once, and stay there."""

import torch
from jaxtyping import Shaped


class Resident:
    """A tensor on the CPU, and its copies on the devices and in the dtypes that were asked for."""

    def __init__(self, tensor: Shaped[torch.Tensor, "..."]) -> None:
        """Keep the tensor.

        Args:
            tensor: The tensor, which is not to be changed later.
        """
        self._tensor = tensor
        self._copies: dict[tuple[torch.device, torch.dtype], torch.Tensor] = {}

    def on(
        self, device: torch.device, dtype: torch.dtype | None = None
    ) -> Shaped[torch.Tensor, "..."]:
        """The tensor on a device.

        Args:
            device: The device.
            dtype: The dtype; the tensor's own by default.
        """
        key = (device, dtype or self._tensor.dtype)
        if key not in self._copies:
            # A tensor that is made in inference mode cannot take part in a later backward pass.
            with torch.inference_mode(False):
                self._copies[key] = self._tensor.to(*key, non_blocking=True)
        return self._copies[key]

    def like(self, other: torch.Tensor) -> Shaped[torch.Tensor, "..."]:
        """The tensor on another one's device, in its dtype."""
        return self.on(other.device, other.dtype)
