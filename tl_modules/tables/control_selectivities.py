"""The selectivity of each single control, which a table of effects keeps as one text per module."""

from collections.abc import Iterable

import numpy as np
import pandas as pd
from jaxtyping import Float

from tl_modules.errors import ModulesError
from tl_modules.runtime.arguments import checked
from tl_modules.tables.effects_frame import check_effects, is_own, split_runs

COLUMN = "selectivity_controls"
"""The column of an effects table that holds the texts."""


def in_own_row(own: Iterable[bool], controls: Float[np.ndarray, " controls"]) -> pd.Series:
    """The column of one module: its controls' selectivities in the row of its own category.

    A text, because a cell of a CSV file holds one value. One row only, because up to 999 controls
    in each row would make most of the file.

    Args:
        own: Whether each row is of the module's own category.
        controls: The controls' selectivities.

    >>> in_own_row([False, True], np.array([0.25, -0.5])).fillna("").tolist()
    ['', '0.25 -0.5']
    """
    text = " ".join(f"{value:.5g}" for value in controls if np.isfinite(value)) or None
    return pd.Series([text if each else None for each in own], dtype=pd.Series(["a"]).dtype)


@checked
def control_selectivities(effects: pd.DataFrame) -> pd.DataFrame:
    """Return the selectivity of each single control, to draw or test their distribution.

    Args:
        effects: What ``module_effects`` returned, or ``effects.csv`` as pandas reads it.

    Returns:
        One row per module and control that the module's test used: ``module``, ``draw`` (its
        number, from 0) and ``selectivity`` (nats per token, or the metric's unit; five digits).
        Modules without controls, or whose own category was not tested, have no rows.

    Raises:
        ModulesError: If the table is not of ``module_effects``, holds several runs, or is of an
            earlier version, which kept only the controls' mean, standard deviation and maximum.

    Example::

        effects = tlm.module_effects(model, modules, prompts)
        tlm.control_selectivities(effects).groupby("module")["selectivity"].quantile(0.95)
    """
    check_effects(effects, ("module", "own", COLUMN))
    if len(split_runs(effects)) > 1:
        raise ModulesError(
            "effects should be of one run; this table holds several. Select the rows of one."
        )
    own = effects.loc[is_own(effects)]
    texts = zip(own["module"], own[COLUMN], strict=True)
    split = {module: text.split() for module, text in texts if isinstance(text, str)}
    rows = [
        (module, number, float(value))
        for module, values in split.items()
        for number, value in enumerate(values)
    ]
    found = pd.DataFrame(rows, columns=["module", "draw", "selectivity"])
    return found.astype({"draw": int, "selectivity": float})
