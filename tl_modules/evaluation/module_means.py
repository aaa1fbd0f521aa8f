"""Compute how active each module is on each sample."""

from collections.abc import Iterator

import numpy as np
from jaxtyping import Float, Int

from tl_modules.activations.matrix import ActivationMatrix
from tl_modules.activations.normalise import ZScore, check_same_kind
from tl_modules.activations.store import ActivationStore
from tl_modules.errors import ModulesError
from tl_modules.modules.labels import BACKGROUND
from tl_modules.modules.module_set import ModuleSet

_BLOCK_BYTES = 128 * 1024**2


def module_means(
    modules: ModuleSet, acts: ActivationMatrix | ActivationStore
) -> Float[np.ndarray, "samples modules"]:
    """Average each sample's normalised activations over each module's units.

    Args:
        modules: The modules.
        acts: Raw activations, or normalised ones (used as they are).

    Returns:
        One row per sample and one column per module; 0 for a module without units.

    Raises:
        ModulesError: If the activations have other units, another reading or another
            normalisation, or no fitted normaliser is known.
    """
    check_own_units(modules, acts)
    # The mean over units as a matrix product, which is fast for any labels.
    members = np.zeros((len(modules.units), modules.n_modules), dtype=np.float32)
    inside = np.flatnonzero(modules.unit_labels != BACKGROUND)
    members[inside, modules.unit_labels[inside]] = 1
    sizes = np.maximum(members.sum(axis=0), 1)
    parts = []
    for rows in row_blocks(len(acts.samples), len(acts.units)):
        values = normalised_rows(modules, acts, rows)
        parts.append((values @ members.astype(values.dtype, copy=False)) / sizes)
    return np.concatenate(parts)


def standardised(
    profiles: Float[np.ndarray, "samples modules"],
) -> Float[np.ndarray, "samples modules"]:
    """Standardise profiles so that their products are correlations; a constant one becomes 0."""
    profiles = profiles.astype(np.float64)
    return ZScore.fit(profiles).apply(profiles) / np.sqrt(len(profiles) - 1)


def row_blocks(n_samples: int, n_units: int) -> Iterator[Int[np.ndarray, " rows"]]:
    """Yield the numbers of all samples in blocks that fit easily into memory."""
    step = max(_BLOCK_BYTES // (4 * n_units), 1)
    return (np.arange(start, min(start + step, n_samples)) for start in range(0, n_samples, step))


def normalised_rows(
    modules: ModuleSet,
    acts: ActivationMatrix | ActivationStore,
    rows: Int[np.ndarray, " rows"],
) -> Float[np.ndarray, "rows units"]:
    """Return the activations of some samples, normalised as at discovery.

    Args:
        modules: The modules.
        acts: Activations that passed ``check_own_units``.
        rows: The samples' numbers.

    Returns:
        One row per sample and one column per unit.
    """
    if isinstance(acts, ActivationStore):
        values, normaliser = acts.matrix(rows).values, None
    else:
        values, normaliser = acts.values[rows], acts.normaliser
    if normaliser is None and modules.normaliser is not None:
        return modules.normaliser.apply(values)
    return values


def check_own_units(modules: ModuleSet, acts: ActivationMatrix | ActivationStore) -> None:
    """Raise unless the activations can be normalised and averaged like the modules' own.

    Raises:
        ModulesError: If the activations have other units, another reading or another
            normalisation, or no fitted normaliser is known.
    """
    if not acts.units.same_hooks(modules.units):
        raise ModulesError(
            "The activations should have the modules' units; their hook points or widths differ. "
            "Collect them from the model that the modules were discovered on."
        )
    if acts.reading != modules.reading:
        raise ModulesError(
            f"The activations should have the reading of the modules, {modules.reading}; they "
            f"have {acts.reading}. Collect them again with the modules' options."
        )
    normaliser = None if isinstance(acts, ActivationStore) else acts.normaliser
    if normaliser is not None and modules.normaliser is not None:
        check_same_kind(normaliser, modules.normaliser)
    if normaliser is None and modules.normaliser is None:
        raise ModulesError(
            "Raw activations need a fitted normaliser; these modules hold none, because they were "
            "made by hand. Pass normalised activations, acts.zscore(like=...)."
        )
