"""Validate the table of effects that is shared with modules: every effect needs controls."""

import pandas as pd

from tl_modules.errors import ModulesError
from tl_modules.tables.effects_frame import check_effects

COLUMNS = (
    "module",
    "category",
    "n",
    "effect",
    "ci_low",
    "ci_high",
    "control_mean",
    "control_std",
    "p_value",
)
"""The columns of ``module_effects`` that the card shows; the shared file has all columns."""


def check_controls(effects: pd.DataFrame | None, n_modules: int) -> None:
    """Raise if the table has no controls or belongs to other modules.

    Args:
        effects: The table that ``module_effects`` returned, or None.
        n_modules: K.

    Raises:
        ModulesError: If the table lacks columns, has rows without controls, or has modules that the
            set lacks.
    """
    if effects is None:
        return
    check_effects(effects, COLUMNS, n_modules)
    if effects[["control_mean", "p_value"]].isna().to_numpy().any():
        raise ModulesError(
            "effects should have controls in every row, because an effect alone says nothing about "
            "a module; some rows have none. Run tlm.module_effects with n_controls of at least 1."
        )
