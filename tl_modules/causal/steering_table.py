"""A table of steering: p-values corrected within each factor, and which modules steer."""

import numpy as np
import pandas as pd
from jaxtyping import Bool

from tl_modules.tables.effects_frame import SIGNIFICANT
from tl_modules.tables.p_values import corrected_within
from tl_modules.tables.text import text_column

_TESTED = ("selectivity", "score_rise")
"""The numbers whose p-values are corrected over the modules."""


def steering_table(table: pd.DataFrame, max_lost: float) -> pd.DataFrame:
    """Add corrected p-values, ``steers`` and the sentence to the rows of ``steering_effects``.

    Args:
        table: One row per module and factor.
        max_lost: How much fluency a factor may cost, in nats per token.

    Returns:
        The same rows with more columns, and ``attrs["sentence"]``.
    """
    table = table.assign(category=text_column(table["category"]), text=text_column(table["text"]))
    for name in _TESTED:
        table = corrected_within(table, f"{name}_p_value", "factor")
    table["steers"] = _rises(table, max_lost, "score_rise_p_bh")
    table.attrs["sentence"] = _sentence(table, max_lost)
    return table


def _rises(table: pd.DataFrame, max_lost: float, p_value: str) -> Bool[np.ndarray, " rows"]:
    """Where the score rises at little cost and by a column of p-values beyond the controls'."""
    factor, rise, lost, p_values = (
        table[name].to_numpy(dtype=float) for name in ("factor", "score_rise", "lost", p_value)
    )
    # At factors below 1 a low p-value says that the score is lower than the controls'.
    return (factor > 1) & (rise > 0) & (lost < max_lost) & (p_values <= SIGNIFICANT)


def _sentence(table: pd.DataFrame, max_lost: float) -> str:
    """Which modules steer at which factors."""
    n_modules, n_factors = len(set(table["module"])), len(set(table["factor"]))
    of = f"{n_modules} {'module' if n_modules == 1 else 'modules'}"
    cost = f"less than {max_lost:g} nats per token of fluency lost"
    n_above = table.loc[table["factor"] > 1, "factor"].nunique()
    family = "the modules" + (f", not over the {n_above} factors above 1" if n_above > 1 else "")
    steering = table.loc[table["steers"]]
    if len(steering):
        found = []
        for module, rows in steering.groupby("module", sort=False):
            best = rows.nlargest(1, "score_rise").iloc[0]
            found.append(
                f"module {module} at {_listed(rows['factor'])} (at {best['factor']:g} its score "
                f"rises by {best['score_rise']:.3g}, its controls' by "
                f"{best['score_rise_control_mean']:.3g}; lost {best['lost']:.2f})"
            )
        return (
            f"With {cost}, the score of {len(found)} of {of} rises beyond the controls' (p at most "
            f"{SIGNIFICANT:g} after Benjamini and Hochberg over {family}): {'; '.join(found)}."
        )
    n_controls = int(table["n_controls"].to_numpy(dtype=int).min())
    said = (
        f"At none of {n_factors} factors does the score of any of {of} rise beyond the controls' "
        f"(p at most {SIGNIFICANT:g} after Benjamini and Hochberg over the modules) with {cost}."
    )
    alone = table.loc[_rises(table, max_lost, "score_rise_p_value"), "module"].unique()
    if len(alone):
        said += f" Before correction {len(alone)} do, at some factor."
    if 1 / (1 + n_controls) > SIGNIFICANT:
        said += f" {n_controls} controls are too few to say: their smallest p-value is above it."
    return said


def _listed(factors: pd.Series) -> str:
    return " and ".join(f"{factor:g}" for factor in np.sort(factors.to_numpy(dtype=float)))
