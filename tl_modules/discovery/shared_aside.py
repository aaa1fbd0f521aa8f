"""Discovery without the units that every category of prompts needs."""

import numpy as np
from jaxtyping import Bool, Shaped

from tl_modules.activations.matrix import ActivationMatrix
from tl_modules.activations.store import ActivationStore
from tl_modules.discovery.products import InMemory, Products
from tl_modules.errors import ModulesError
from tl_modules.units import Units


def kept_units(
    acts: ActivationMatrix | ActivationStore, shared: Units | None
) -> Bool[np.ndarray, " units"] | None:
    """Which units discovery partitions; None for all of them.

    Args:
        acts: The activations.
        shared: The units to set aside.

    Raises:
        ModulesError: If the units are of another model, are all there are, or are to be set aside
            from a store.
    """
    if shared is None:
        return None
    if isinstance(acts, ActivationStore):
        raise ModulesError(
            "shared=... needs an activation matrix; a store is streamed with all of its units. "
            "Load it if it fits into memory: discover(store.matrix(), shared=...)."
        )
    if not shared.same_hooks(acts.units):
        raise ModulesError(
            "shared should be units of the activations' model; their hook points or widths "
            "differ. Pass shared_units(model, prompts, acts).units."
        )
    kept = np.ones(len(acts.units), dtype=np.bool_)
    kept[shared.flat()] = False
    if not kept.any():
        raise ModulesError("shared should leave units for modules; it holds all. Pass fewer.")
    return kept


def without_columns(products: Products, kept: Bool[np.ndarray, " units"]) -> InMemory:
    """The normalised activations of the units that discovery partitions."""
    assert isinstance(products, InMemory)  # kept_units refuses stores
    return InMemory(products.matrix[:, kept])


def spread(
    values: Shaped[np.ndarray, " kept"], kept: Bool[np.ndarray, " units"], missing: int | float
) -> Shaped[np.ndarray, " units"]:
    """One value per unit: those of the units that were partitioned, or else a missing value."""
    every = np.full(len(kept), missing, dtype=values.dtype)
    every[kept] = values
    return every
