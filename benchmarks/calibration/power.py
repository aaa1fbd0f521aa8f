"""The power that valid controls cost: they share units with the module that they test.

A layer has 600 units. Those of a true module add to its selectivity; every unit adds noise of its
own. "all": 99 controls from all units, the set's own included, as in the package. "all, infinite":
infinitely many such controls. "apart, infinite": an oracle that knows what sets of units without
the module's signal do.
"""

import numpy as np
import pandas as pd

from tl_modules.tables.against_controls import control_p_value
from tl_modules.tables.strata import draw_like

N_UNITS, N_CONTROLS, LEVEL = 600, 99, 0.05
SETS = {"whole": (1.0, 0.0), "half": (0.5, 0.0), "diluted": (0.5, 0.5)}
"""The shares of a set's size that are the true module's units, and units of others."""

SIGNAL = 4.5
"""Selectivity of a whole module, in standard deviations of a random set's selectivity."""


def power_table(n: int, seed: int) -> pd.DataFrame:
    """The share of sets called selective, by the share of the units that a module holds."""
    rows = []
    for n_modules in (2, 3, 5, 10):
        row: dict[str, object] = {"module holds": f"1/{n_modules}"}
        for name, shares in SETS.items():
            generator = np.random.default_rng([seed, n_modules])
            found = np.mean([_selective(n_modules, *shares, generator) for _ in range(n)], axis=0)
            row |= {
                f"{name}: {kind}": share
                for kind, share in zip(("all", "infinite", "apart"), found, strict=True)
            }
        rows.append(row)
    return pd.DataFrame(rows).set_index("module holds")


def _selective(
    n_modules: int, true: float, false: float, generator: np.random.Generator
) -> tuple[bool, bool, bool]:
    """Whether a set of shares of the true module's size is selective, by each kind of control."""
    from scipy.stats import norm

    size = N_UNITS // n_modules
    noise = generator.normal(size=N_UNITS)
    values = noise + (np.arange(N_UNITS) < size) * SIGNAL / np.sqrt(size)
    chosen = np.zeros(N_UNITS, dtype=bool)
    chosen[generator.permutation(size)[: round(true * size)]] = True
    others = size + generator.permutation(N_UNITS - size)
    chosen[others[: round(false * size)]] = True
    number, n_chosen = values[chosen].sum(), chosen.sum()
    strata = [np.arange(N_UNITS)]
    drawn = [values[draw_like(strata, chosen, generator)].sum() for _ in range(N_CONTROLS)]
    # Sums of units drawn without replacement are nearly normal.
    spread = np.sqrt(n_chosen * (1 - n_chosen / N_UNITS)) * values.std(ddof=1)
    infinite = norm.sf((number - n_chosen * values.mean()) / spread)
    apart = norm.sf(number / np.sqrt(n_chosen))
    one, *others = (control_p_value(number, np.array(drawn)), infinite, apart)
    return one <= LEVEL, others[0] <= LEVEL, others[1] <= LEVEL
