"""IterD: iterative descent over units and samples in turn (arXiv 2603.17823)."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int, Shaped

from tl_modules.discovery import _kernel
from tl_modules.discovery.objectives import check_labels, from_blocks
from tl_modules.discovery.products import InMemory, Products
from tl_modules.discovery.start import principal_components, start_labels, strongest_labels
from tl_modules.errors import ModulesError, check_at_least, check_seed
from tl_modules.modules.objective import Objective
from tl_modules.runtime.arguments import checked

MIN_GAIN = 1e-8
"""A move must raise L by more than this (the paper's tolerance)."""

# Axes named with a leading underscore are not checked against each other by jaxtyping: those
# arguments come from users and are refused with a message of our own.
_Labels = Int[np.ndarray, " _items"]
_Orders = Int[np.ndarray, "rounds _items"]
_Sums = Float[np.ndarray, "items modules"]


@dataclass(frozen=True, eq=False, repr=False)
class IterDResult:
    """Where IterD ended."""

    sample_labels: Int[np.ndarray, " samples"]
    """Each sample's module."""

    unit_labels: Int[np.ndarray, " units"]
    """Each unit's module."""

    objective: Objective
    """xi, B and L of the partition."""

    history: tuple[float, ...]
    """L after each round, as the search sees it (empty blocks left out of B)."""

    converged: bool
    """Whether the last round moved nothing."""

    def __repr__(self) -> str:
        """One line, not its arrays."""
        end = "converged" if self.converged else "stopped"
        return (
            f"IterDResult({len(self.sample_labels):,} samples, {len(self.unit_labels):,} units, "
            f"L = {self.objective.L:,.0f}, {end} after {len(self.history)} rounds)"
        )


@checked
def iterd(
    matrix: Shaped[np.ndarray, "_samples _units"],
    n_modules: int,
    *,
    sample_labels: Int[np.ndarray, " _samples"] | None = None,
    unit_labels: Int[np.ndarray, " _units"] | None = None,
    unit_orders: Int[np.ndarray, "_rounds _units"] | None = None,
    sample_orders: Int[np.ndarray, "_rounds _samples"] | None = None,
    max_rounds: int = 5,
    seed: int = 0,
) -> IterDResult:
    """Partition samples and units into paired groups, from a start to a local optimum of L.

    Each round visits the units in a random order and moves each to the label that raises L most,
    if one raises it by more than 1e-8; then the samples likewise. A candidate move costs O(1), so
    a round costs O((samples + units) * modules) and one pass over the rows and columns that moved.

    Args:
        matrix: Normalised activations, shape ``[samples, units]``. Not normalised here.
        n_modules: K, from 2 to min(samples, units).
        sample_labels: Start labels of the samples; by default balanced k-means after PCA, or,
            where the units' are given, the label whose units a sample drives most.
        unit_labels: Start labels of the units; by default the label whose samples drive a unit
            most.
        unit_orders: Visiting orders of the first rounds; further rounds draw theirs.
        sample_orders: The same for the samples.
        max_rounds: Stop after so many rounds (the paper's 5), or when nothing moved.
        seed: Seeds the start and the orders.

    Returns:
        The labels, the objective and L after each round.

    Raises:
        ModulesError: If K is out of range, a value is not finite, or labels or orders do not fit.
    """
    products = InMemory(matrix)
    check_n_modules(n_modules, products.shape)
    check_at_least("max_rounds", max_rounds, 1)
    check_seed(seed)
    n_samples, n_units = products.shape
    sample_labels = _checked_labels("sample_labels", sample_labels, n_samples, n_modules)
    unit_labels = _checked_labels("unit_labels", unit_labels, n_units, n_modules)
    orders = (
        _checked_orders("unit_orders", unit_orders, n_units),
        _checked_orders("sample_orders", sample_orders, n_samples),
    )
    if sample_labels is None and unit_labels is None:
        points = principal_components(products, seed)
        sample_labels = start_labels(points, "kmeans", n_modules, seed)
    return descend(
        products,
        n_modules,
        sample_labels,
        unit_labels,
        orders=orders,
        max_rounds=max_rounds,
        seed=seed,
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
    """IterD from given labels, which it may change; see ``iterd``.

    Args:
        products: The normalised matrix.
        n_modules: K.
        sample_labels: Start labels; None only where the units' are given.
        unit_labels: Start labels; by default they follow the samples'.
        orders: Visiting orders of the first rounds, units' and samples'.
        max_rounds: Stop after so many rounds, or when nothing moved.
        seed: Seeds the orders.
        on_round: Told each round's number, from 1, and L after it.

    Returns:
        Where it ended.
    """
    search = _Search(products, n_modules, sample_labels, unit_labels)
    n_samples, n_units = products.shape
    generator = np.random.default_rng(seed)
    history: list[float] = []
    converged = False
    while len(history) < max_rounds and not converged:
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
    """Labels on the move, with the sums that make a candidate move cost O(1).

    The two matrix products are computed once; after a sweep only the rows or columns that moved
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
            assert unit_labels is not None  # the caller gives one of them
            drive = products.sample_sums(unit_labels, n_modules)
            sample_labels = strongest_labels(drive, unit_labels)
        self.sample_labels = sample_labels
        self._of_units = products.unit_sums(sample_labels, n_modules)
        if unit_labels is None:
            unit_labels = strongest_labels(self._of_units, sample_labels)
        self.unit_labels = unit_labels
        self._of_samples = products.sample_sums(unit_labels, n_modules)

    def sweep_units(self, order: _Labels) -> tuple[float, int]:
        """Visit every unit; returns L and how many moved."""
        before = self.unit_labels.copy()
        value, n_moved = self._sweep(self._of_units, self.unit_labels, order, self.sample_labels)
        moved = np.flatnonzero(before != self.unit_labels)
        if 2 * len(moved) > len(before):  # fewer additions
            self._of_samples = self._products.sample_sums(self.unit_labels, self._n_modules)
        else:
            self._products.shift_sample_sums(self._of_samples, moved, before, self.unit_labels)
        return value, n_moved

    def sweep_samples(self, order: _Labels) -> tuple[float, int]:
        """Visit every sample; returns L and how many moved."""
        before = self.sample_labels.copy()
        value, n_moved = self._sweep(self._of_samples, self.sample_labels, order, self.unit_labels)
        moved = np.flatnonzero(before != self.sample_labels)
        if 2 * len(moved) > len(before):
            self._of_units = self._products.unit_sums(self.sample_labels, self._n_modules)
        else:
            self._products.shift_unit_sums(self._of_units, moved, before, self.sample_labels)
        return value, n_moved

    def objective(self) -> Objective:
        """The objective of the present labels, from the sums, which are float64."""
        own = self._of_units[np.arange(len(self._of_units)), self.unit_labels]
        counts = [
            np.bincount(labels, minlength=self._n_modules)
            for labels in (self.sample_labels, self.unit_labels)
        ]
        sums = np.bincount(self.unit_labels, weights=own, minlength=self._n_modules)
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


def _checked_labels(
    name: str, labels: Shaped[np.ndarray, " _items"] | None, length: int, n_modules: int
) -> _Labels | None:
    """A copy of the start labels as int64."""
    if labels is None:
        return None
    if np.asarray(labels).dtype.kind not in "iu":
        raise ModulesError(
            f"{name} should be whole numbers; their type is {np.asarray(labels).dtype}."
        )
    copied = np.array(labels, dtype=np.int64)
    if copied.shape != (length,):
        raise ModulesError(f"{name} should have {length} entries; it has shape {copied.shape}.")
    check_labels(name, copied, n_modules)
    return copied


def _checked_orders(
    name: str, orders: Shaped[np.ndarray, "_rounds _items"] | None, length: int
) -> Int[np.ndarray, "rounds items"] | None:
    """The orders as int64, each a permutation."""
    if orders is None:
        return None
    copied = np.atleast_2d(np.array(orders, dtype=np.int64))
    if copied.shape[1:] != (length,) or not (np.sort(copied, axis=1) == np.arange(length)).all():
        raise ModulesError(
            f"{name} should have one row a round, each a permutation of 0..{length - 1}; it has "
            f"shape {copied.shape}. Draw them with numpy.random.Generator.permutation."
        )
    return copied
