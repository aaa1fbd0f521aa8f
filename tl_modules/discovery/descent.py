"""IterD: iterative descent that moves units and samples in turn (arXiv 2603.17823)."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from tl_modules.discovery import _kernel
from tl_modules.discovery.objectives import from_blocks
from tl_modules.discovery.products import Products
from tl_modules.errors import ModulesError
from tl_modules.modules.objective import Objective

MIN_GAIN = 1e-8
"""A move must raise L by more than this (the paper's tolerance)."""

# jaxtyping does not compare axes whose names begin with an underscore. These arguments come from
# users, so ModulesError explains a wrong shape.
_Labels = Int[np.ndarray, " _items"]
_Orders = Int[np.ndarray, "rounds _items"]
_Sums = Float[np.ndarray, "items modules"]


@dataclass(frozen=True, eq=False, repr=False)
class IterDResult:
    """The partition that IterD reached, and how it got there."""

    sample_labels: Int[np.ndarray, " samples"]
    """Each sample's module."""

    unit_labels: Int[np.ndarray, " units"]
    """Each unit's module."""

    objective: Objective
    """xi, B and L of the partition."""

    history: tuple[float, ...]
    """L after each round. The search leaves empty blocks out of B; ``objective`` does not."""

    converged: bool
    """Whether no item moved in the last round."""

    def __repr__(self) -> str:
        """One line without the arrays."""
        end = "converged" if self.converged else "stopped"
        return (
            f"IterDResult({len(self.sample_labels):,} samples, {len(self.unit_labels):,} units, "
            f"L = {self.objective.L:,.0f}, {end} after {len(self.history)} rounds)"
        )


def descend(
    products: Products,
    n_modules: int,
    sample_labels: _Labels | None,
    unit_labels: _Labels | None = None,
    *,
    orders: tuple[_Orders | None, _Orders | None] = (None, None),
    max_rounds: int,
    seed: int,
    on_round: Callable[[int, float], object] = lambda number, value: None,
) -> IterDResult:
    """Run IterD from start labels, which are changed in place; see ``iterd``.

    Args:
        products: The normalised matrix.
        n_modules: K.
        sample_labels: Start labels of the samples; None only if ``unit_labels`` is given.
        unit_labels: Start labels of the units; by default they follow the samples' labels.
        orders: Visiting orders of the first rounds, of the units and of the samples.
        max_rounds: Stop after this number of rounds, or when no item moved.
        seed: Seed of the orders.
        on_round: Called after each round with its number, from 1, and L.

    Returns:
        The partition reached.
    """
    search = _Search(products, n_modules, sample_labels, unit_labels)
    n_samples, n_units = products.shape
    generator = np.random.default_rng(seed)
    history: list[float] = []
    converged = False
    while len(history) < max_rounds and not converged:
        # Orders are drawn even where they are given, so that later rounds draw the same ones.
        drawn = (generator.permutation(n_units), generator.permutation(n_samples))
        unit_order, sample_order = (
            given[len(history)] if given is not None and len(history) < len(given) else order
            for given, order in zip(orders, drawn, strict=True)
        )
        _, n_units_moved = search.sweep_units(unit_order)
        value, n_samples_moved = search.sweep_samples(sample_order)
        history.append(value)
        converged = n_units_moved + n_samples_moved == 0
        on_round(len(history), value)
    return IterDResult(
        search.sample_labels,
        search.unit_labels,
        search.objective(),
        tuple(history),
        converged,
    )


class _Search:
    """The labels during a search, with the sums that make a candidate move cost O(1).

    The two matrix products are computed once. After a sweep only the rows or columns that moved
    are read again.
    """

    def __init__(
        self,
        products: Products,
        n_modules: int,
        sample_labels: _Labels | None,
        unit_labels: _Labels | None,
    ) -> None:
        self._products = products
        self._n_modules = n_modules
        if sample_labels is None:
            assert unit_labels is not None  # the caller passes one of the two
            sums = products.sample_sums(unit_labels, n_modules)
            sample_labels = strongest_labels(sums, unit_labels)
        self.sample_labels = sample_labels
        self._of_units = products.unit_sums(sample_labels, n_modules)
        if unit_labels is None:
            unit_labels = strongest_labels(self._of_units, sample_labels)
        self.unit_labels = unit_labels
        self._of_samples = products.sample_sums(unit_labels, n_modules)

    def sweep_units(self, order: _Labels) -> tuple[float, int]:
        """Visit every unit; return L and the number of units that moved."""
        before = self.unit_labels.copy()
        # The unit sums depend on the samples' labels alone, so they stay valid during this sweep.
        value, n_moved = self._sweep(self._of_units, self.unit_labels, order, self.sample_labels)
        moved = np.flatnonzero(before != self.unit_labels)
        # Each moved unit costs a subtraction and an addition. If more than half moved, summing
        # anew takes fewer additions.
        if 2 * len(moved) > len(before):
            self._of_samples = self._products.sample_sums(self.unit_labels, self._n_modules)
        else:
            self._products.shift_sample_sums(self._of_samples, moved, before, self.unit_labels)
        return value, n_moved

    def sweep_samples(self, order: _Labels) -> tuple[float, int]:
        """Visit every sample; return L and the number of samples that moved."""
        before = self.sample_labels.copy()
        value, n_moved = self._sweep(self._of_samples, self.sample_labels, order, self.unit_labels)
        moved = np.flatnonzero(before != self.sample_labels)
        if 2 * len(moved) > len(before):
            self._of_units = self._products.unit_sums(self.sample_labels, self._n_modules)
        else:
            self._products.shift_unit_sums(self._of_units, moved, before, self.sample_labels)
        return value, n_moved

    def objective(self) -> Objective:
        """The objective of the present labels, from the float64 sums."""
        in_block = self._of_units[np.arange(len(self._of_units)), self.unit_labels]
        counts = [
            np.bincount(labels, minlength=self._n_modules)
            for labels in (self.sample_labels, self.unit_labels)
        ]
        sums = np.bincount(self.unit_labels, weights=in_block, minlength=self._n_modules)
        return from_blocks(sums, counts[0] * counts[1])

    def _sweep(
        self, sums: _Sums, labels: _Labels, order: _Labels, others: _Labels
    ) -> tuple[float, int]:
        counts = np.bincount(others, minlength=self._n_modules)
        value, n_moved = _kernel.sweep(sums, labels, order, counts, MIN_GAIN)
        return float(value), int(n_moved)


def check_n_modules(n_modules: int, shape: tuple[int, int]) -> None:
    """Refuse a K that a matrix of this shape cannot be partitioned into.

    Raises:
        ModulesError: If K is below 2 or above the number of samples or units.
    """
    most = min(shape)
    if not 2 <= n_modules <= most:
        raise ModulesError(
            f"n_modules should lie between 2 and min(samples, units) = {most}; got {n_modules}. "
            "Ask for fewer modules, or collect more prompts."
        )


def strongest_labels(
    sums: Float[np.ndarray, "items modules"], others: Int[np.ndarray, " others"]
) -> Int[np.ndarray, " items"]:
    """For each item, the label whose members drive it most on average.

    Args:
        sums: Each item's activation summed over each label's members.
        others: The members' labels.

    Returns:
        One label per item; a label without members is never used.
    """
    counts = np.bincount(others, minlength=sums.shape[1])
    means = np.where(counts > 0, sums / np.maximum(counts, 1), -np.inf)
    return means.argmax(axis=1).astype(np.int64)
