"""The matrix sorted by module, made small enough to look at."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from tl_modules.activations.matrix import ActivationMatrix
from tl_modules.activations.store import ActivationStore
from tl_modules.errors import check_at_least
from tl_modules.evaluation.module_means import check_own_units, normalised_rows, row_blocks
from tl_modules.interpret.own_samples import check_own_samples
from tl_modules.modules.module_set import BACKGROUND, ModuleSet


@dataclass(frozen=True, eq=False)
class Bins:
    """Consecutive runs of samples, or of units, sorted by module; no run spans two modules."""

    order: Int[np.ndarray, " _items"]
    """The items' numbers, sorted: by module, then strongest first; the background last."""

    edges: Int[np.ndarray, " _edges"]
    """Where the bins begin in that order, and where the last one ends."""

    labels: Int[np.ndarray, " _bins"]
    """Each bin's module; -1 for the background."""

    @property
    def sizes(self) -> Int[np.ndarray, " _bins"]:
        """How many items each bin has."""
        return np.diff(self.edges)


def sort_blocks(
    modules: ModuleSet,
    acts: ActivationMatrix | ActivationStore,
    *,
    max_rows: int = 250,
    max_columns: int = 500,
) -> tuple[Float[np.ndarray, "rows columns"], Bins, Bins]:
    """Average the activations over runs of samples and units of one module.

    Args:
        modules: The modules.
        acts: The activations that they were discovered on, raw or normalised.
        max_rows: At most so many runs of samples, and one more a small module.
        max_columns: At most so many runs of units, and one more a small module.

    Returns:
        The mean normalised activation of each pair of runs, and what the runs of samples and of
        units are.

    Raises:
        ModulesError: If the activations are of other samples, units or reading, or a number is
            below 1.
    """
    check_at_least("max_rows", max_rows, 1)
    check_at_least("max_columns", max_columns, 1)
    check_own_samples(modules, acts)
    check_own_units(modules, acts)
    rows = _bins(modules.sample_labels, modules.sample_scores, max_rows)
    columns = _bins(modules.unit_labels, modules.unit_scores, max_columns)
    of_sample = np.empty(len(rows.order), dtype=np.int64)
    of_sample[rows.order] = np.repeat(np.arange(len(rows.labels)), rows.sizes)
    sums = np.zeros((len(rows.labels), len(columns.labels)))
    for numbers in row_blocks(len(acts.samples), len(acts.units)):
        values = normalised_rows(modules, acts, numbers)[:, columns.order]
        part = np.add.reduceat(values, columns.edges[:-1], axis=1, dtype=np.float64)
        np.add.at(sums, of_sample[numbers], part)
    return sums / rows.sizes[:, None] / columns.sizes, rows, columns


def _bins(
    labels: Int[np.ndarray, " items"], scores: Float[np.ndarray, " items"] | None, limit: int
) -> Bins:
    """About ``limit`` bins, shared out by the modules' sizes; at least one a module."""
    strength = np.zeros(len(labels)) if scores is None else scores
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
