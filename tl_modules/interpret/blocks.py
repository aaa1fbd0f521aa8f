"""Sort the activation matrix by module and average it down to a size that can be drawn."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from tl_modules.activations.matrix import ActivationMatrix
from tl_modules.activations.store import ActivationStore
from tl_modules.errors import check_at_least
from tl_modules.evaluation.module_means import check_own_units, normalised_rows, row_blocks
from tl_modules.interpret.own_samples import check_own_samples
from tl_modules.modules.labels import BACKGROUND
from tl_modules.modules.module_set import ModuleSet


@dataclass(frozen=True, eq=False)
class Bins:
    """Consecutive runs of samples, or of units, sorted by module; no run spans two modules."""

    order: Int[np.ndarray, " _items"]
    """The items' numbers, sorted: by module, then strongest first; the background last."""

    edges: Int[np.ndarray, " _edges"]
    """The positions in ``order`` at which the bins start, then the end of the last bin."""

    labels: Int[np.ndarray, " _bins"]
    """The module of each bin; -1 for the background."""

    @property
    def sizes(self) -> Int[np.ndarray, " _bins"]:
        """The number of items in each bin."""
        return np.diff(self.edges)


def sort_blocks(
    modules: ModuleSet,
    acts: ActivationMatrix | ActivationStore,
    *,
    max_rows: int = 250,
    max_columns: int = 500,
) -> tuple[Float[np.ndarray, "rows columns"], Bins, Bins]:
    """Average the activations over bins of samples and units, so that the blocks can be drawn.

    Args:
        modules: The modules.
        acts: The activations that the modules were discovered on, raw or normalised.
        max_rows: The largest number of sample bins; each small module may add one.
        max_columns: The largest number of unit bins; each small module may add one.

    Returns:
        The mean normalised activation of each pair of bins, the bins of samples, and the bins of
        units.

    Raises:
        ModulesError: If the activations have other samples, other units or another reading, or if
            a limit is below 1.
    """
    check_at_least("max_rows", max_rows, 1)
    check_at_least("max_columns", max_columns, 1)
    check_own_samples(modules, acts)
    check_own_units(modules, acts)
    rows = _bins(modules.sample_labels, modules.sample_scores, max_rows)
    columns = _bins(modules.unit_labels, modules.unit_scores, max_columns)
    bin_of_sample = np.empty(len(rows.order), dtype=np.int64)
    bin_of_sample[rows.order] = np.repeat(np.arange(len(rows.labels)), rows.sizes)
    sums = np.zeros((len(rows.labels), len(columns.labels)))
    # Only a block of samples is in memory at a time, so that a large store can be drawn as well.
    for numbers in row_blocks(len(acts.samples), len(acts.units)):
        values = normalised_rows(modules, acts, numbers)[:, columns.order]
        part = np.add.reduceat(values, columns.edges[:-1], axis=1, dtype=np.float64)
        np.add.at(sums, bin_of_sample[numbers], part)
    return sums / rows.sizes[:, None] / columns.sizes, rows, columns


def _bins(
    labels: Int[np.ndarray, " items"], scores: Float[np.ndarray, " items"] | None, limit: int
) -> Bins:
    """Make about ``limit`` bins in proportion to the modules' sizes; at least one per module."""
    strength = np.zeros(len(labels)) if scores is None else scores
    # lexsort sorts by its last key first: the background goes last, although its label is -1.
    order = np.lexsort((-strength, labels, labels == BACKGROUND))
    starts = np.flatnonzero(np.diff(labels[order], prepend=np.nan))
    sizes = np.diff(np.append(starts, len(labels)))
    n_bins = np.minimum(np.maximum(sizes * limit // len(labels), 1), sizes)
    edges = [
        start + np.arange(n) * size // n
        for start, size, n in zip(starts, sizes, n_bins, strict=True)
    ]
    return Bins(
        order,
        np.append(np.concatenate(edges), len(labels)),
        np.repeat(labels[order][starts], n_bins),
    )
