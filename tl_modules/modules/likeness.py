"""Which modules share most units with one module."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from tl_modules.errors import ModulesError
from tl_modules.tables.text import text_column

if TYPE_CHECKING:
    from tl_modules.modules.module import Module


def nearest(module: "Module", others: Iterable["Module"]) -> pd.DataFrame:
    """Compare a module's units with those of others, the most alike first.

    Args:
        module: The module.
        others: Modules of the same model and site.

    Returns:
        What ``Module.nearest`` returns, for all the others.

    Raises:
        ModulesError: If a module belongs to another model or site, or there is none.
    """
    others = list(others)
    if not others:
        raise ModulesError("others should hold at least one module; got none. Pass a ModuleSet.")
    own = module.units.flat()
    rows = []
    for other in others:
        if not other.units.same_hooks(module.units):
            raise ModulesError(
                "others should belong to the module's model and site; their hook points or widths "
                "differ. Use tlm.match_modules for modules of different models."
            )
        n_common = len(np.intersect1d(own, other.units.flat()))
        n_either = len(own) + other.n_units - n_common
        rows.append(
            {
                "module": other.label,
                "n_units": other.n_units,
                "n_common": n_common,
                "jaccard": n_common / n_either if n_either else float("nan"),
            }
        )
    table = pd.DataFrame(rows)
    table.insert(1, "category", text_column(other.category_title for other in others))
    return table.sort_values("jaccard", ascending=False, kind="stable", ignore_index=True)
