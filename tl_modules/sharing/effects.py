"""The causal table that goes with shared modules: never without its controls."""

import pandas as pd

from tl_modules.errors import ModulesError

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


def check_effects(effects: pd.DataFrame | None, n_modules: int) -> None:
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
    remedy = "Pass what tlm.module_effects(model, modules, prompts) returned."
    if not isinstance(effects, pd.DataFrame):
        raise ModulesError(f"effects should be a table; got {type(effects).__name__}. {remedy}")
    missing = [name for name in COLUMNS if name not in effects]
    if missing:
        raise ModulesError(
            f"effects should have the columns {', '.join(COLUMNS)}, so that no effect stands "
            f"without its controls; {', '.join(missing)} are missing. {remedy}"
        )
    if not len(effects) or effects[["control_mean", "p_value"]].isna().to_numpy().any():
        raise ModulesError(
            "effects should have controls in every row; there are rows without, or no rows. Run "
            "tlm.module_effects with n_controls of at least 1."
        )
    strange = sorted(set(effects["module"]) - set(range(n_modules)))
    if strange:
        raise ModulesError(
            f"effects should be of these modules, 0..{n_modules - 1}; got {strange}. {remedy}"
        )
