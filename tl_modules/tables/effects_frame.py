"""What a table of effects must hold for those who read it."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from jaxtyping import Bool

from tl_modules.errors import ModulesError

SIGNIFICANT = 0.05
"""After Benjamini and Hochberg."""

_RUN_COLUMNS = ("modules", "reading", "excluded", "controls", "metric")
"""What tells apart several runs in one table, as ``tl-modules test`` writes it."""

_UNITS = {"answer_logprob": "nats", "answer_accuracy": "share of answers"}
_REMEDY = "Pass what tlm.module_effects(model, modules, prompts) returned."


def check_effects(
    effects: pd.DataFrame, columns: Sequence[str], n_modules: int | None = None
) -> None:
    """Refuse what is no table of effects, or of other modules.

    Args:
        effects: What ``module_effects`` returned.
        columns: Those needed.
        n_modules: How many modules the set has.

    Raises:
        ModulesError: If it is no table, lacks columns or rows, or has modules that the set has
            not.
    """
    if not isinstance(effects, pd.DataFrame):
        raise ModulesError(f"effects should be a table; got {type(effects).__name__}. {_REMEDY}")
    missing = [name for name in columns if name not in effects]
    if missing or not len(effects):
        raise ModulesError(
            f"effects should have rows, and the columns {', '.join(columns)}; this table has "
            f"{len(effects)} rows and lacks {missing}. {_REMEDY}"
        )
    known = set(effects["module"]) if n_modules is None else set(range(n_modules))
    strange = sorted(set(effects["module"]) - known, key=str)
    if strange:
        raise ModulesError(
            f"effects should be of these {n_modules} modules; it has rows of {strange}. {_REMEDY}"
        )


def check_one_run(effects: pd.DataFrame) -> None:
    """Refuse a table with more than one row a module and category.

    Raises:
        ModulesError: If cells are repeated.
    """
    if effects.duplicated(["module", "category"]).any():
        raise ModulesError(
            "effects should hold each module and category once; this table repeats some. Pass the "
            "rows of one call of module_effects."
        )


def split_runs(effects: pd.DataFrame) -> list[tuple[dict[str, str], pd.DataFrame]]:
    """The runs of a table, each with what tells it apart.

    Raises:
        ModulesError: If a run repeats cells.
    """
    told_by = [name for name in _RUN_COLUMNS if name in effects.columns]
    # Not itertuples: of no columns, pandas 2 makes no rows.
    told = [tuple(map(_said, row)) for row in effects[told_by].to_numpy(dtype=object)]
    found = []
    for values in dict.fromkeys(told):
        table = effects.loc[[each == values for each in told]]
        check_one_run(table)
        found.append((dict(zip(told_by, values, strict=True)), table))
    return found


def _said(value: object) -> str:
    """A cell as text; a file has nothing where "none" was."""
    return "none" if value is None or value != value else str(value)


def effect_unit(run: dict[str, str]) -> str:
    """What a run's effects are measured in."""
    return _UNITS.get(run.get("metric", "loss"), "nats per token")


def is_own(effects: pd.DataFrame) -> Bool[np.ndarray, " rows"]:
    """Whether each row is of the module's own category, also after a file made it text."""
    return np.array([str(value) in ("True", "1", "1.0") for value in effects["own"]], dtype=bool)
