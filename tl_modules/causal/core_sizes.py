"""The sizes at which cores are measured: a ladder of numbers of units."""

from collections.abc import Iterable
from numbers import Integral

from tl_modules.errors import ModulesError

SHARES = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
"""Shares of a site's units; those of the circuits' benchmark MIB (Mueller et al. 2025, arXiv
2504.13151)."""


def core_sizes(sizes: Iterable[int | float] | None, n_units: int) -> list[int]:
    """The ladder as numbers of units.

    Args:
        sizes: Whole numbers are numbers of units, other numbers are shares of ``n_units``; None
            takes ``SHARES``.
        n_units: How many units the site has.

    Returns:
        Each number of units once, the smallest first.

    Raises:
        ModulesError: If there is no size, a number is below 1, or a share is not above 0 and at
            most 1.

    >>> core_sizes([0.5, 3], 10)
    [3, 5]
    """
    given = list(SHARES if sizes is None else sizes)
    if not given:
        raise ModulesError("sizes should hold at least one size; got none. Leave it out for ten.")
    found = set()
    for size in given:
        whole = isinstance(size, Integral)
        if not (size >= 1 if whole else 0 < size <= 1):
            raise ModulesError(
                "sizes should be whole numbers of units from 1, or shares of the model's units "
                f"above 0 and at most 1; got {size!r}. Pass [100, 400] or [0.01, 0.05], for one."
            )
        found.add(int(size) if whole else max(1, round(size * n_units)))
    return sorted(found)


def rungs(sizes: Iterable[int], n_own: int) -> list[int]:
    """The sizes of one module's ladder: those below the module's, and the whole module's.

    Args:
        sizes: What ``core_sizes`` returned.
        n_own: How many units the module has.

    >>> rungs([10, 100, 1000], 80)
    [10, 80]
    """
    return [*(size for size in sizes if size < n_own), n_own]
