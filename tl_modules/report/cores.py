"""The parts of ``CausalCores`` that a report shows."""

from typing import Protocol, runtime_checkable

import pandas as pd

from tl_modules.modules.module_set import ModuleSet


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
