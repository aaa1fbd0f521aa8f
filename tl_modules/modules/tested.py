"""Which modules of a set are shared by all, as a table of effects says."""

from dataclasses import replace
from typing import TYPE_CHECKING

import pandas as pd

from tl_modules.tables.effects_frame import check_effects, shared_modules

if TYPE_CHECKING:
    from tl_modules.modules.module_set import ModuleSet


def with_shared(modules: "ModuleSet", effects: pd.DataFrame) -> "ModuleSet":
    """What ``ModuleSet.with_effects`` returns.

    Raises:
        ModulesError: If ``effects`` is no table of effects of these modules.
    """
    check_effects(effects, ("module", "category", "effect"), modules.n_modules)
    found = shared_modules(effects)
    if found is None:
        return modules
    known = modules.shared_by_all or (False,) * modules.n_modules
    tested = set(effects["module"])
    flags = [k in found if k in tested else was for k, was in enumerate(known)]
    return replace(modules, shared_by_all=tuple(flags))
