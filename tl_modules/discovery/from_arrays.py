"""IterD on plain arrays: ``iterd``."""

import numpy as np
from jaxtyping import Int, Shaped

from tl_modules.discovery.descent import IterDResult, check_n_modules, descend
from tl_modules.discovery.objectives import check_labels
from tl_modules.discovery.products import InMemory
from tl_modules.discovery.start import start_labels, start_points
from tl_modules.errors import ModulesError, check_at_least, check_seed
from tl_modules.runtime.arguments import checked
from tl_modules.runtime.determinism import one_thread


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
    """Partition samples and units into paired groups; the algorithm behind ``discover``, on arrays.

    Each round visits the units in a random order. It moves each unit to the label that raises L
    most, if a label raises L by more than 1e-8. Then it visits the samples in the same way. A
    candidate move costs O(1), so a round costs O((samples + units) * modules), plus one pass over
    the rows and columns that moved.

    Args:
        matrix: Normalised activations, shape ``[samples, units]``.
        n_modules: K, from 2 to min(samples, units).
        sample_labels: Start labels of the samples. By default they come from balanced k-means
            after PCA; if ``unit_labels`` is given, each sample gets the label whose units it
            drives most.
        unit_labels: Start labels of the units; by default each unit gets the label whose samples
            drive it most.
        unit_orders: Visiting orders of the units in the first rounds; later orders are drawn.
        sample_orders: Visiting orders of the samples in the first rounds.
        max_rounds: Stop after this number of rounds (5 in the paper), or when no item moved.
        seed: Seed of the start and of the orders.

    Returns:
        The labels, the objective, and L after each round.

    Raises:
        ModulesError: If K is out of range, a value is not finite, or labels or orders do not fit.

    >>> result = iterd(np.kron(np.eye(2), np.ones((4, 3))), 2)
    >>> result.objective
    Objective(xi=1.0, B=12.0, L=12.0)
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
        with one_thread():
            given = start_points(products, seed)
            sample_labels = start_labels(given, "kmeans", n_modules, seed)
    return descend(
        products,
        n_modules,
        sample_labels,
        unit_labels,
        orders=orders,
        max_rounds=max_rounds,
        seed=seed,
    )


def _checked_labels(
    name: str, labels: Shaped[np.ndarray, " _items"] | None, length: int, n_modules: int
) -> Int[np.ndarray, " _items"] | None:
    """Check start labels, and return a copy as int64, which the search may change."""
    if labels is None:
        return None
    if np.asarray(labels).dtype.kind not in "iu":
        raise ModulesError(
            f"{name} should be whole numbers; got {np.asarray(labels).dtype}. Convert them with "
            "labels.astype(int)."
        )
    copied = np.array(labels, dtype=np.int64)
    if copied.shape != (length,):
        raise ModulesError(
            f"{name} should have shape {(length,)}; got {copied.shape}. Pass one label per row or "
            "column of the matrix."
        )
    check_labels(name, copied, n_modules)
    return copied


def _checked_orders(
    name: str, orders: Shaped[np.ndarray, "_rounds _items"] | None, length: int
) -> Int[np.ndarray, "rounds items"] | None:
    """Check that the orders are permutations, and return a copy as int64."""
    if orders is None:
        return None
    copied = np.atleast_2d(np.array(orders, dtype=np.int64))
    if copied.shape[1:] != (length,) or not (np.sort(copied, axis=1) == np.arange(length)).all():
        raise ModulesError(
            f"{name} should have one row per round, each a permutation of 0..{length - 1}; got an "
            f"array of shape {copied.shape}. Draw the rows with "
            "numpy.random.Generator.permutation."
        )
    return copied
