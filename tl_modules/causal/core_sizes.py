"""The sizes at which cores are measured: a ladder of numbers of units."""

from collections.abc import Iterable

from tl_modules.errors import ModulesError, count_or_share

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
        ModulesError: If there is no size, or one is neither.

    >>> core_sizes([0.5, 3], 10)
    [3, 5]
    """
    given = list(SHARES if sizes is None else sizes)
    if not given:
        raise ModulesError("sizes should hold at least one size; got none. Leave it out for ten.")
    return sorted({count_or_share("sizes", size, n_units) for size in given})


def check_share(share: float) -> None:
    """Refuse a share of the largest selectivity that no core could reach.

    Raises:
        ModulesError: If it does not lie above 0 and at most at 1.
    """
    if not 0 < share <= 1:
        raise ModulesError(f"share should lie above 0 and at most at 1; got {share}.")


def rungs(sizes: Iterable[int], n_own: int) -> list[int]:
    """The sizes of one module's ladder: those below the module's, and the whole module's.

    Args:
        sizes: What ``core_sizes`` returned.
        n_own: How many units the module has.

    >>> rungs([10, 100, 1000], 80)
    [10, 80]
    """
    return [*(size for size in sizes if size < n_own), n_own]
