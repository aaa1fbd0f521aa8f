"""The causal table that goes with shared modules: never without its controls."""

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
"""What the card shows of what ``module_effects`` returns; the file beside it has all columns."""


def check_controls(effects: pd.DataFrame | None, n_modules: int) -> None:
    """Refuse a table without controls, or of other modules.

    Args:
        effects: What ``module_effects`` returned, if anything.
        n_modules: K.

    Raises:
        ModulesError: If it is no such table, was made without controls, or has modules that the
            set has not.
    """
    if effects is None:
        return
    check_effects(effects, COLUMNS, n_modules)
    if effects[["control_mean", "p_value"]].isna().to_numpy().any():
        raise ModulesError(
            "effects should have controls in every row, so that none stands alone; there are rows "
            "without. Run tlm.module_effects with n_controls of at least 1."
        )
