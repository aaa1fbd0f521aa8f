"""Selectivity of a whole effects table: its diagonal against permuted categories."""

from dataclasses import dataclass
from itertools import permutations
from math import factorial
from typing import Literal

import numpy as np
import pandas as pd
from jaxtyping import Float

from tl_modules.errors import ModulesError, check_seed
from tl_modules.runtime.arguments import checked
from tl_modules.tables.html_tables import html_table

N_PERMUTATIONS = 5039
"""How many random permutations to draw. Up to seven categories, all permutations are tried."""


@dataclass(frozen=True, eq=False, repr=False)
class Selectivity:
    """How far the diagonal of the module x category table stands out."""

    table: pd.DataFrame
    """The values: one row per module, one column per category."""

    own: pd.Series
    """Each module's own category."""

    dominance: float
    """Mean over the modules of the value on the own category minus the mean on the others."""

    null_mean: float
    """The mean dominance under permuted categories."""

    null_std: float
    """The standard deviation of the dominance under permuted categories."""

    p_value: float
    """Share of the permutations, including the true one, with at least as much dominance."""

    n_permutations: int
    """How many permutations were tried."""

    def __repr__(self) -> str:
        """One line."""
        return (
            f"Selectivity(dominance {self.dominance:.3g}, null {self.null_mean:.3g} +- "
            f"{self.null_std:.3g}, p = {self.p_value:.2g} of {self.n_permutations} permutations)"
        )

    def _repr_html_(self) -> str:
        """For Jupyter: the table, beside each module's own category."""
        return html_table(repr(self), self.table.assign(own=self.own))


@checked
def selectivity(
    effects: pd.DataFrame, value: Literal["effect", "z"] = "effect", seed: int = 0
) -> Selectivity:
    """Measure the diagonal dominance of an effects table against a label-permutation null.

    The null permutes the categories' names. It does not change which modules share a category, how
    strong each module is, or how easily each category is hurt.

    Args:
        effects: What ``module_effects`` returned.
        value: ``"effect"`` (nats per token) or ``"z"`` (against the controls).
        seed: Seed of the random permutations; used with more than seven categories.

    Returns:
        The table, its diagonal dominance, and the dominance under the null.

    Raises:
        ModulesError: If the table does not come from ``module_effects``, a value is NaN, a module
            and category occur twice, no module's own category occurs, there are fewer than two
            categories, or the seed is not valid.

    >>> effects = pd.DataFrame({"module": [0, 0, 1, 1], "category": ["a", "b", "a", "b"]})
    >>> effects["own"] = [True, False, False, True]
    >>> effects["effect"] = [2.0, 0.0, 1.0, 2.0]
    >>> result = selectivity(effects)
    >>> result.dominance, result.p_value
    (1.5, 0.5)
    """
    check_seed(seed)
    missing = {"module", "category", "own", value} - set(effects.columns)
    if missing:
        raise ModulesError(
            f"effects should be what module_effects returned; it lacks {sorted(missing)}."
        )
    if effects.duplicated(["module", "category"]).any():
        raise ModulesError(
            "effects should have one row per module and category; some have several. Test one set "
            "of modules at a time."
        )
    table = effects.pivot(index="module", columns="category", values=value)
    table = table.reindex(columns=list(dict.fromkeys(effects["category"])))
    own = effects.loc[effects["own"].astype(bool)].set_index("module")["category"]
    if table.shape[1] < 2 or not len(own):
        raise ModulesError(
            "Selectivity needs two or more categories, and a module whose own is among them; got "
            f"{table.shape[1]} and {len(own)}. Test on prompts of several categories."
        )
    cells = table.loc[own.index].to_numpy(dtype=np.float64)
    own_columns = np.array([table.columns.get_loc(name) for name in own])
    orders = _orders(table.shape[1], seed)
    if not np.isfinite(cells).all():
        raise ModulesError(
            f"Every module's {value} should be known; some are NaN. z needs at least two controls "
            "of each module, and modules that are not empty."
        )
    null = _dominance(cells, orders[:, own_columns])
    observed = null[0]  # the first order changes nothing
    return Selectivity(
        table=table,
        own=own,
        dominance=float(observed),
        null_mean=float(null.mean()),
        null_std=float(null.std()),
        p_value=float(np.mean(null >= observed - 1e-12)),
        n_permutations=len(null),
    )


def _orders(n_categories: int, seed: int) -> np.ndarray:
    """Permutations of the categories, the identity first: ``[permutations, categories]``."""
    if factorial(n_categories) <= N_PERMUTATIONS + 1:
        return np.array(list(permutations(range(n_categories))))
    generator = np.random.default_rng(seed)
    drawn = [generator.permutation(n_categories) for _ in range(N_PERMUTATIONS)]
    return np.array([np.arange(n_categories), *drawn])


def _dominance(
    cells: Float[np.ndarray, "modules categories"], own: np.ndarray
) -> Float[np.ndarray, " permutations"]:
    """Own minus mean of the others, averaged over the modules, for each choice of own columns."""
    on_own = cells[np.arange(len(cells)), own]
    on_others = (cells.sum(axis=1) - on_own) / (cells.shape[1] - 1)
    return (on_own - on_others).mean(axis=1)
