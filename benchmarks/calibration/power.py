"""The power that valid controls cost: they share units with the module that they test.

A layer has 600 units. Those of a true module add to its selectivity; every unit adds noise of its
own. The controls are random sets of all units, the module's own included. The oracle compares with
sets whose units have the other units' values alone, so that none shares a unit with the module.
"""

import numpy as np
import pandas as pd

from tl_modules.tables.against_controls import control_p_value
from tl_modules.tables.strata import draw_like

N_UNITS, N_CONTROLS, LEVEL = 600, 99, 0.05
SIGNAL = 4.5
"""Selectivity of a whole module, in standard deviations of a random set's selectivity."""


def power_table(n: int, seed: int) -> pd.DataFrame:
    """The share of sets called selective, by the share of the units that a module holds."""
    rows = []
    for n_modules in (2, 3, 5, 10):
        row: dict[str, object] = {"module holds": f"1/{n_modules}"}
        for name, of_set in (("whole", (1.0, 0.0)), ("half", (0.5, 0.0)), ("diluted", (0.5, 0.5))):
            generator = np.random.default_rng([seed, n_modules])
            found = [_selective(n_modules, *of_set, generator) for _ in range(n)]
            row[name], row[f"{name}, oracle"] = np.mean(found, axis=0)
        rows.append(row)
    return pd.DataFrame(rows).set_index("module holds")


def _selective(
    n_modules: int, true: float, false: float, generator: np.random.Generator
) -> tuple[bool, bool]:
    """Whether a set of shares of the true module's size is selective: controls, then oracle."""
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
    apart = generator.normal(size=(N_CONTROLS, n_chosen)).sum(axis=1)
    p_values = (control_p_value(number, np.array(runs)) for runs in (drawn, apart))
    one, other = (p_value <= LEVEL for p_value in p_values)
    return one, other
