"""What a report, or the page in a notebook, shows of ``CausalCores``."""

from typing import Protocol, runtime_checkable

import numpy as np
import pandas as pd

from tl_modules.errors import ModulesError
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


def check_cores(cores: HasCores, modules: ModuleSet) -> None:
    """Refuse cores of other modules.

    Args:
        cores: The cores.
        modules: The modules that they should be parts of.

    Raises:
        ModulesError: If the cores have units of other modules, or their tables lack columns.
    """
    for name, needed in _COLUMNS.items():
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
