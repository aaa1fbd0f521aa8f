"""Memory limits, and errors of memory that ran out."""

import gc
import re
from collections.abc import Callable
from typing import TypeVar

import psutil
import torch

from tl_modules.errors import ModulesError

_SAID = ("can't allocate memory", "out of memory", "CUBLAS_STATUS_ALLOC_FAILED")
"""Parts of the messages of torch on a CPU, of torch on Apple's GPUs, and of CUDA's libraries."""

Size = int | float | str
"""Bytes, or a text such as ``"4 GB"``."""

Found = TypeVar("Found")

_POWERS = "KMGT"
_SIZE = re.compile(r"\s*(\d+(?:\.\d*)?)\s*(?:([KMGT])(I?))?B?\s*", re.IGNORECASE)


def budget(max_memory: Size | None) -> int:
    """A memory limit in bytes.

    Args:
        max_memory: Bytes, or a text such as ``"4 GB"`` or ``"4 GiB"``; None for the memory that is
            free now.

    Returns:
        Bytes.

    Raises:
        ModulesError: If ``max_memory`` is not a size.

    >>> budget("1.5GB")
    1500000000
    """
    if max_memory is None:
        return int(psutil.virtual_memory().available)
    size: Size = max_memory
    match = _SIZE.fullmatch(size) if isinstance(size, str) else None
    if match is not None:
        power = 0 if match[2] is None else 1 + _POWERS.index(match[2].upper())
        size = float(match[1]) * (1024 if match[3] else 1000) ** power
    if isinstance(size, str | bool) or not 0 < size < float("inf"):
        raise ModulesError(
            f"max_memory should be a number of bytes above 0, or a text such as '4 GB'; got "
            f"{max_memory!r}."
        )
    return int(size)


def free_memory(device: torch.device) -> int:
    """The bytes that are free on a device, with those that torch keeps there for its own use.

    Args:
        device: A GPU of CUDA's; for any other device the machine's memory counts.
    """
    if device.type != "cuda":
        return budget(None)
    kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return torch.cuda.mem_get_info(device)[0] + kept


def check_memory(
    what: str, n_bytes: int, max_memory: Size | None, remedy: str, sharing: int = 1
) -> None:
    """Refuse work that takes more memory than it may, before it starts.

    Args:
        what: The work's name in the message.
        n_bytes: Estimate of the memory that the work takes.
        max_memory: The limit, as ``budget`` takes it.
        remedy: The message's remedy.
        sharing: Number of processes that share the machine's free memory.

    Raises:
        ModulesError: If the estimate is above the limit.
    """
    most = budget(max_memory) // (sharing if max_memory is None else 1)
    if n_bytes > most:
        limit = "is free here" if max_memory is None else "max_memory allows"
        raise ModulesError(
            f"{what} takes about {size_text(n_bytes)} of memory; {size_text(most)} {limit}. "
            f"{remedy}"
        )


def size_text(n_bytes: int) -> str:
    """A size as messages show it."""
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if n_bytes >= scale / 10:
            return f"{n_bytes / scale:,.2f} {unit}"
    return f"{n_bytes:,.0f} bytes"


def unless_out_of_memory(run: Callable[[], Found]) -> Found | None:
    """Run something; if memory runs out, free what it held and return None.

    Args:
        run: What to run. Its errors of other kinds are raised.
    """
    try:
        return run()
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
    # Inside the except clause the error's traceback would still hold the run's tensors.
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return None


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error means that memory ran out, on a GPU or in the machine."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(said in str(error) for said in _SAID)
