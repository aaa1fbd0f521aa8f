"""Tables of effects, as figures and pages read them."""

import pandas as pd

from tl_modules.errors import ModulesError

SIGNIFICANT = 0.05
"""After Benjamini and Hochberg."""

RUN_COLUMNS = ("modules", "reading", "excluded", "controls", "metric")
"""What tells apart several runs in one table, as ``tl-modules test`` writes it."""

_NEEDED = ("module", "category", "own", "effect", "control_mean", "p_bh")
_UNITS = {"answer_logprob": "nats", "answer_accuracy": "share of answers"}


def check_effects(effects: pd.DataFrame) -> None:
    """Refuse a table that is not one run's.

    Raises:
        ModulesError: If columns are missing, it has no rows, or cells are repeated.
    """
    missing = [name for name in _NEEDED if name not in effects.columns]
    if missing or not len(effects):
        raise ModulesError(
            f"effects should be what module_effects returned; this table has {len(effects)} rows "
            f"and lacks {missing}."
        )
    if effects.duplicated(["module", "category"]).any():
        raise ModulesError(
            "effects should hold each module and category once; this table repeats some. Pass the "
            "rows of one call of module_effects."
        )


def split_runs(effects: pd.DataFrame) -> list[tuple[dict[str, str], pd.DataFrame]]:
    """The runs of a table, each with what tells it apart.

    Raises:
        ModulesError: As ``check_effects``.
    """
    told_by = [name for name in RUN_COLUMNS if name in effects.columns]
    runs = [((), effects)]
    if told_by:
        named = effects.assign(**{name: effects[name].fillna("none") for name in told_by})
        runs = list(named.groupby(told_by, sort=False))
    found = []
    for values, table in runs:
        check_effects(table)
        found.append((dict(zip(told_by, map(str, values), strict=True)), table))
    return found


def effect_unit(run: dict[str, str]) -> str:
    """What a run's effects are measured in."""
    return _UNITS.get(run.get("metric", "loss"), "nats per token")
