"""Copies from a device to the machine's memory, which run beside the device's next kernels."""

from functools import cache

import torch
from jaxtyping import Shaped


def host_memory(
    shape: tuple[int, ...], dtype: torch.dtype, device: torch.device
) -> Shaped[torch.Tensor, "..."]:
    """An uninitialised tensor in the machine's memory, for copies from a device.

    Args:
        shape: Its shape.
        dtype: Its dtype.
        device: The device. For CUDA the memory is pinned, as copies beside kernels need it; torch
            keeps pinned memory for the next tensor.
    """
    return torch.empty(shape, dtype=dtype, pin_memory=device.type == "cuda")


class HostCopy:
    """A copy that was begun. CUDA copies while it computes; other devices copy in ``wait``."""

    def __init__(
        self, source: Shaped[torch.Tensor, "*shape"], target: Shaped[torch.Tensor, "*shape"]
    ) -> None:
        """Begin to copy, after the kernels queued so far.

        Args:
            source: A tensor on a device. Its memory is used again once it is copied.
            target: ``host_memory``, or rows of it.
        """
        self._source: torch.Tensor | None = source
        self._target = target
        self._copied: torch.Event | None = None
        if source.device.type == "cuda":
            stream = _beside(source.device)
            stream.wait_stream(torch.cuda.current_stream(source.device))
            with torch.cuda.stream(stream):
                target.copy_(source, non_blocking=True)
            source.record_stream(stream)
            self._copied, self._source = stream.record_event(), None

    def wait(self) -> Shaped[torch.Tensor, "*shape"]:
        """Wait until the copy is done, and return the target."""
        if self._copied is not None:
            self._copied.synchronize()
        elif self._source is not None:
            self._target.copy_(self._source)
            self._source = None
        return self._target


@cache
def _beside(device: torch.device) -> torch.cuda.Stream:
    """The stream of a GPU's copies."""
    return torch.cuda.Stream(device)
