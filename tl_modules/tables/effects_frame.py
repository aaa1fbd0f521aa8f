"""Checks of a table of effects, for the functions that read one."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from jaxtyping import Bool

from tl_modules.errors import ModulesError

SIGNIFICANT = 0.05
"""Largest significant p-value after the Benjamini-Hochberg correction."""

SHARED = "shared by all"
"""The label of the set of units that all modules share, and the title of a module that every
category needs."""

RUN_COLUMNS = ("modules", "reading", "excluded", "controls", "positions", "metric", "loss_on")
"""The columns that tell apart the runs in one table, as ``tl-modules test`` writes it."""

_EVERY_TOKEN = "all"
_POSITIONS = {
    "content": "at content tokens",
    _EVERY_TOKEN: "at every token",
}

_UNITS = {"answer_logprob": "nats", "answer_accuracy": "share of answers"}
_REMEDY = "Pass what tlm.module_effects(model, modules, prompts) returned."


def check_effects(
    effects: pd.DataFrame, columns: Sequence[str], n_modules: int | None = None
) -> None:
    """Refuse anything but a table of effects of these modules.

    Args:
        effects: What ``module_effects`` returned.
        columns: The columns needed.
        n_modules: The set's number of modules; None to accept any modules.

    Raises:
        ModulesError: If ``effects`` is not a table, lacks columns or rows, or has modules that the
            set does not have.
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
    """Refuse a table with more than one row per module and category.

    Raises:
        ModulesError: If a module and category are repeated.
    """
    if effects.duplicated(["module", "category"]).any():
        raise ModulesError(
            "effects should hold each module and category once; this table repeats some. Pass the "
            "rows of one call of module_effects."
        )


def split_runs(effects: pd.DataFrame) -> list[tuple[dict[str, str], pd.DataFrame]]:
    """Split a table into its runs, each with the values of the columns that tell it apart.

    Raises:
        ModulesError: If a run repeats a module and category.
    """
    columns = [name for name in RUN_COLUMNS if name in effects.columns]
    # Not itertuples, which yields no rows in pandas 2 if there are no columns.
    run_of_row = [tuple(map(_cell_text, row)) for row in effects[columns].to_numpy(dtype=object)]
    runs = []
    for values in dict.fromkeys(run_of_row):
        table = effects.loc[[row_values == values for row_values in run_of_row]]
        check_one_run(table)
        runs.append((dict(zip(columns, values, strict=True)), table))
    return runs


def _cell_text(value: object) -> str:
    """A cell as text. A CSV file is read with a missing value where "none" was written."""
    return "none" if value is None or value != value else str(value)


def effect_unit(run: dict[str, str]) -> str:
    """The unit of a run's effects."""
    return _UNITS.get(run.get("metric", "loss"), "nats per token")


def positions_said(effects: pd.DataFrame) -> str:
    """Where units were changed, in words.

    Args:
        effects: What ``module_effects`` returned. A table without the column ``positions`` is older
            than the column, and of changes at every token.
    """
    values = pd.Series(effects.get("positions", [_EVERY_TOKEN]), dtype=object)
    found = values.fillna(_EVERY_TOKEN).astype(str).unique()
    return " or ".join(_POSITIONS.get(value, f"at positions {value}") for value in found)


def is_own(effects: pd.DataFrame) -> Bool[np.ndarray, " rows"]:
    """Whether each row is of the module's own category, also if a file made the flag text."""
    return flags(effects, "own")


def shared_modules(effects: pd.DataFrame) -> set[int | str] | None:
    """The modules that are shared by all in every run of a table.

    Args:
        effects: What ``module_effects`` returned, or several such tables below each other.

    Returns:
        The labels of the modules; None for a table without the column ``shared_by_all``, which is
        of an earlier version.
    """
    if "shared_by_all" not in effects:
        return None
    apart = effects["module"].to_numpy()[~flags(effects, "shared_by_all")]
    return set(effects["module"]) - set(apart)


def flags(effects: pd.DataFrame, column: str) -> Bool[np.ndarray, " rows"]:
    """A column of flags, also if a file made them text.

    Args:
        effects: A table.
        column: One of its columns.
    """
    return np.array([str(value) in ("True", "1", "1.0") for value in effects[column]], dtype=bool)
