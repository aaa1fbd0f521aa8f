"""The parts of ``CausalCores`` that a report, or the page in a notebook, shows."""

from typing import Protocol, runtime_checkable

import pandas as pd

from tl_modules.modules.module_set import ModuleSet


@runtime_checkable
class HasCoreTables(Protocol):
    """The tables of what ``causal_cores`` returned."""

    @property
    def table(self) -> pd.DataFrame:
        """What cores of all sizes do; see ``CausalCores.table``."""
        ...

    @property
    def units(self) -> pd.DataFrame:
        """The cores' units, highest score first in each module; see ``CausalCores.units``."""
        ...


@runtime_checkable
class HasCores(HasCoreTables, Protocol):
    """What ``causal_cores`` returned, or the same read from files."""

    @property
    def cores(self) -> ModuleSet:
        """The set with each module reduced to its core."""
        ...
