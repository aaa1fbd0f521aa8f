"""What a report, or the page in a notebook, shows of ``CausalCores``."""

from collections.abc import Collection
from typing import Protocol, runtime_checkable

import numpy as np
import pandas as pd

from tl_modules.errors import ModulesError, shown
from tl_modules.modules.module_set import ModuleSet

_COLUMNS = {
    "table": {"module", "selectivity", "n_units"},
    "units": {"module", "hook_name", "unit"},
}


@runtime_checkable
class HasCores(Protocol):
    """What ``causal_cores`` returned, or the same read from files."""

    @property
    def cores(self) -> ModuleSet:
        """The set with each module reduced to its core."""
        ...

    @property
    def table(self) -> pd.DataFrame:
        """What cores of all sizes do; see ``CausalCores.table``."""
        ...

    @property
    def units(self) -> pd.DataFrame:
        """The cores' units, highest score first in each module; see ``CausalCores.units``."""
        ...


def check_cores(cores: HasCores, modules: ModuleSet, also: Collection[str] = ()) -> None:
    """Refuse cores of other modules.

    Args:
        cores: The cores.
        modules: The modules that they should be parts of.
        also: More columns that ``cores.table`` should have.

    Raises:
        ModulesError: If the cores have units of other modules, their tables lack columns, or
            ``cores.units`` names a unit that the modules' hook points do not have.
    """
    for name, needed in (_COLUMNS | {"table": _COLUMNS["table"] | set(also)}).items():
        frame = getattr(cores, name)
        columns = set(frame.columns) if isinstance(frame, pd.DataFrame) else set[str]()
        if missing := sorted(needed - columns):
            raise ModulesError(f"cores.{name} lacks {missing}. Pass what causal_cores returned.")
    parts = cores.cores
    alike = parts.units.same_hooks(modules.units) and len(parts) == len(modules)
    in_core = parts.unit_labels >= 0
    if not alike or not np.array_equal(parts.unit_labels[in_core], modules.unit_labels[in_core]):
        raise ModulesError(
            f"cores should be parts of these {len(modules)} modules; they are of other ones. Pass "
            "what causal_cores returned for this set."
        )
    _check_units(cores.units, modules)


def _check_units(table: pd.DataFrame, modules: ModuleSet) -> None:
    """Refuse a table with units that the modules' hook points do not have."""
    units = modules.units
    widths = dict(zip(units.hook_names, units.widths, strict=True))
    for name, unit in zip(table["hook_name"], table["unit"], strict=True):
        width = widths.get(name, 0) if isinstance(name, str) else 0
        is_whole = isinstance(unit, int | np.integer) and not isinstance(unit, bool)
        if not is_whole or not 0 <= unit < width:
            raise ModulesError(
                "cores.units should name units of the modules' hook points, such as unit 0 of "
                f"{units.hook_names[0]!r}; got unit {shown(unit)} of {shown(name)}. Pass what "
                "causal_cores returned."
            )
