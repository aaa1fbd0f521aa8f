"""Prepare the table of the modules' cores for the page."""

from dataclasses import dataclass
from typing import Any

import pandas as pd

from tl_modules.modules.module_set import ModuleSet
from tl_modules.report.cards import module_label
from tl_modules.tables.effects_frame import check_effects, effect_unit, split_runs
from tl_modules.tables.verdicts import has_verdicts, verdicts


@dataclass(frozen=True)
class CoresTable:
    """What ablating the core of each module does."""

    sentence: str
    """What the test says of all cores."""

    unit: str
    """The unit of the effects."""

    rows: list[dict[str, Any]]
    """One row per core: its module's name, its number of units, and what ``verdicts`` says."""


def cores_table(effects: pd.DataFrame, modules: ModuleSet) -> CoresTable | None:
    """Prepare the cores' table.

    Args:
        effects: What ``module_effects`` returned of the cores.
        modules: The whole modules.

    Returns:
        None for a table of an earlier version, which holds no verdicts.

    Raises:
        ModulesError: If the table is not one run's, or has modules that the set lacks.
    """
    check_effects(effects, ("module", "category", "n_units"), len(modules))
    if not has_verdicts(effects):
        return None
    judged = verdicts(effects)
    sizes = effects.drop_duplicates("module").set_index("module")["n_units"]
    rows = [
        {**row, "name": module_label(modules[int(row["module"])]), "n_units": sizes[row["module"]]}
        for row in judged.to_dict(orient="records")
    ]
    return CoresTable(judged.attrs["sentence"], effect_unit(split_runs(effects)[0][0]), rows)
