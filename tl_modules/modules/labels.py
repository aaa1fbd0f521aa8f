"""Labels: the module that each unit, or each sample, belongs to."""

import numpy as np
from jaxtyping import Int, Shaped

from tl_modules.errors import ModulesError

BACKGROUND = -1
"""The label of units that were set aside: they belong to no module."""


def check_labels(name: str, labels: Int[np.ndarray, " items"], n_modules: int) -> None:
    """Refuse labels that are no module's; only units may be set aside.

    Args:
        name: The field that holds the labels: ``"unit_labels"``, ``"sample_labels"`` or
            ``"unit_runners_up"``.
        labels: The labels.
        n_modules: The number of modules.

    Raises:
        ModulesError: If they are no integers of a usual size, or one is out of range.
    """
    least = 0 if name == "sample_labels" else BACKGROUND
    if labels.dtype not in (np.int32, np.int64):
        raise ModulesError(
            f"{name} should be int32 or int64; they are {labels.dtype}. Convert them: "
            "labels.astype(np.int64)."
        )
    if len(labels) and not least <= labels.min() <= labels.max() < n_modules:
        raise ModulesError(
            f"{name} should lie in {least}..{n_modules - 1}; they go from {labels.min()} "
            f"to {labels.max()}. Rebuild the module set from one discovery."
        )


def check_shared(
    is_shared: Shaped[np.ndarray, " units"], unit_labels: Int[np.ndarray, " units"]
) -> None:
    """Refuse marks of shared units that are no flags, or of units that belong to a module.

    Args:
        is_shared: Whether each unit is shared.
        unit_labels: Each unit's module.

    Raises:
        ModulesError: If the marks are no flags, or a shared unit belongs to a module.
    """
    if is_shared.dtype != np.bool_:
        raise ModulesError(
            f"is_shared should be bool; they are {is_shared.dtype}. Convert them: "
            "is_shared.astype(bool)."
        )
    if (unit_labels[is_shared] != BACKGROUND).any():
        raise ModulesError(
            f"Shared units should belong to no module (label {BACKGROUND}); "
            f"{int((unit_labels[is_shared] != BACKGROUND).sum())} belong to one. Set them aside "
            "in discovery: discover(acts, shared=units)."
        )
