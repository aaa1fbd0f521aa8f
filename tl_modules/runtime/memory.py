"""How much memory a piece of work may take, and whether it will."""

import re

import psutil
import torch

from tl_modules.errors import ModulesError

_SAID = ("can't allocate memory", "out of memory", "CUBLAS_STATUS_ALLOC_FAILED")
"""By torch on a CPU, on Apple's GPUs, and by CUDA's libraries."""

Size = int | float | str
"""Bytes, or a text such as ``"4 GB"``."""

_POWERS = "KMGT"
_SIZE = re.compile(r"\s*(\d+(?:\.\d*)?)\s*(?:([KMGT])(I?))?B?\s*", re.IGNORECASE)


def budget(max_memory: Size | None) -> int:
    """A budget in bytes.

    Args:
        max_memory: Bytes, or a text such as ``"4 GB"`` or ``"4 GiB"``; None for what the machine
            has free at the moment.

    Returns:
        Bytes.

    Raises:
        ModulesError: If it is no size.

    >>> budget("1.5GB")
    1500000000
    """
    if max_memory is None:
        return int(psutil.virtual_memory().available)
    size: Size = max_memory
    found = _SIZE.fullmatch(size) if isinstance(size, str) else None
    if found is not None:
        power = 0 if found[2] is None else 1 + _POWERS.index(found[2].upper())
        size = float(found[1]) * (1024 if found[3] else 1000) ** power
    if isinstance(size, str | bool) or not 0 < size < float("inf"):
        raise ModulesError(
            f"max_memory should be a number of bytes above 0, or a text such as '4 GB'; got "
            f"{max_memory!r}."
        )
    return int(size)


def check_memory(
    what: str, n_bytes: int, max_memory: Size | None, remedy: str, sharing: int = 1
) -> None:
    """Refuse work that does not fit, before it starts.

    Args:
        what: The work, as a message names it.
        n_bytes: What it takes, about.
        max_memory: As ``budget`` takes it.
        remedy: What to do instead.
        sharing: How many processes share what the machine has free.

    Raises:
        ModulesError: If it takes more than the budget.
    """
    most = budget(max_memory) // (sharing if max_memory is None else 1)
    if n_bytes > most:
        limit = "is free here" if max_memory is None else "max_memory allows"
        raise ModulesError(
            f"{what} takes about {_size(n_bytes)} of memory; {_size(most)} {limit}. {remedy}"
        )


def _size(n_bytes: int) -> str:
    """A size as messages say it."""
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if n_bytes >= scale / 10:
            return f"{n_bytes / scale:,.2f} {unit}"
    return f"{n_bytes:,.0f} bytes"


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out, on a GPU or in the machine: torch says so in several ways."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(said in str(error) for said in _SAID)
