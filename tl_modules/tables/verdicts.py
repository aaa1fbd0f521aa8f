"""What a table of effects says of each module, in a word and in a sentence."""

from collections import Counter
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd

from tl_modules.errors import ModulesError
from tl_modules.runtime.arguments import checked
from tl_modules.tables.effects_frame import check_effects, effect_unit, is_own, split_runs
from tl_modules.tables.p_values import benjamini_hochberg

Verdict = Literal[
    "selective",
    "shared by all",
    "not beyond its controls",
    "too few controls to say",
    "not tested",
]
"""``selective``: the module harms its own category more than the others, and more so than its
controls do, after correction over the modules. ``shared by all``: every category needs it about as
much as its own. ``not beyond its controls``: random units of its layers do as much. ``too few
controls to say``: no p-value that so many controls can give would pass the correction. ``not
tested``: its own category is not among the prompts', or they have no other one."""

_KINDS: tuple[Verdict, ...] = get_args(Verdict)

LEVEL = 0.05

_NEEDED = (
    *("module", "category", "own", "effect", "selectivity", "selectivity_ci_low"),
    *("selectivity_ci_high", "selectivity_control_mean", "selectivity_p_value", "n_controls"),
)

_SAID = {
    "selective": ("is selective", "are selective"),
    "shared by all": ("is needed by every category", "are needed by every category"),
    "not beyond its controls": ("is not beyond its controls", "are not beyond their controls"),
    "too few controls to say": ("has too few controls to say", "have too few controls to say"),
    "not tested": ("has no own category to test", "have no own category to test"),
}


@checked
def verdicts(effects: pd.DataFrame, *, level: float = LEVEL) -> pd.DataFrame:
    """Say of each module whether it matters causally for its own category.

    The verdict rests on selectivity: the effect on the module's own category minus the mean effect
    on the others, beside the same number of the module's controls. P-values are corrected over the
    modules after Benjamini and Hochberg. They cannot be smaller than ``1 / (1 + n_controls)``: a
    module that exceeds all its controls may still have too few of them to pass the correction.

    Args:
        effects: What ``module_effects`` returned.
        level: The largest corrected p-value of a selective module.

    Returns:
        One row per module: ``module``, ``category`` (its own), ``verdict`` (see ``Verdict``),
        ``effect`` and ``others`` (the effects on the own category and the mean on the others),
        ``selectivity`` with ``ci_low`` and ``ci_high``, ``control_mean`` and ``control_max`` (of
        selectivity), ``n_controls``, ``p_value``, ``p_bh``, ``p_floor`` (the smallest p-value that
        so many controls can give), ``at_floor`` and ``line``, the row in words. Effects are in nats
        per token, or in the metric's unit. ``attrs["sentence"]`` is ``verdict_sentence(effects)``.

    Raises:
        ModulesError: If the table is not of ``module_effects``, holds several runs, or ``level``
            does not lie between 0 and 1.

    Example::

        found = tlm.verdicts(tlm.module_effects(model, modules, prompts))
        print(found.attrs["sentence"])
        print(found[["module", "verdict", "line"]])
    """
    if not 0 < level < 1:
        raise ModulesError(f"level should lie between 0 and 1; got {level}. 0.05 is usual.")
    check_effects(effects, _NEEDED)
    runs = split_runs(effects)
    if len(runs) > 1:
        raise ModulesError(
            f"effects should be of one run; this table holds {len(runs)}. Select the rows of one: "
            f"{' and '.join(f'{name}={value}' for name, value in runs[0][0].items())}, for one."
        )
    table = _numbers(effects)
    table.insert(2, "verdict", [_verdict(row, level) for row in table.to_dict(orient="records")])
    unit = effect_unit(runs[0][0])
    table["line"] = [_line(row, unit) for row in table.to_dict(orient="records")]
    table = table.drop(columns="shared_by_all")
    table.attrs["sentence"] = _sentence(table, level)
    return table


def verdict_sentence(effects: pd.DataFrame, *, level: float = LEVEL) -> str:
    """Say in one sentence how many modules matter causally for their own categories.

    Args:
        effects: What ``module_effects`` returned.
        level: The largest corrected p-value of a selective module.

    Returns:
        A sentence with the numbers of modules by verdict, and the correction.

    Raises:
        ModulesError: As in ``verdicts``.

    Example::

        print(tlm.verdict_sentence(effects))
    """
    return str(verdicts(effects, level=level).attrs["sentence"])


def has_verdicts(effects: pd.DataFrame) -> bool:
    """Whether a table has what verdicts rest on; those of earlier versions may lack some of it."""
    return set(_NEEDED) <= set(effects.columns) and len(effects) > 0


def agreed_verdicts(effects: pd.DataFrame) -> dict[int, str | None] | None:
    """Each module's verdict, None where several runs in the table do not agree.

    Args:
        effects: What ``module_effects`` returned, or several such tables below each other.

    Returns:
        None for a table that has no verdicts, such as one of an earlier version.
    """
    if not has_verdicts(effects):
        return None
    found: dict[int, set[str]] = {}
    for _, table in split_runs(effects):
        judged = verdicts(table)
        for module, said in zip(judged["module"], judged["verdict"], strict=True):
            found.setdefault(int(module), set()).add(str(said))
    return {module: said.pop() if len(said) == 1 else None for module, said in found.items()}


def _numbers(effects: pd.DataFrame) -> pd.DataFrame:
    """The numbers behind the verdicts, one row per module."""
    effects = effects.assign(own=is_own(effects))
    shared = effects.get("shared_by_all", pd.Series(False, index=effects.index))
    effects = effects.assign(shared_by_all=shared.astype(str).isin(["True", "1", "1.0"]))
    rows = []
    for module, of_module in effects.groupby("module", sort=False):
        own, others = of_module.loc[of_module["own"]], of_module.loc[~of_module["own"]]
        first = of_module.iloc[0]
        rows.append(
            {
                "module": module,
                "category": own["category"].iloc[0] if len(own) else None,
                "effect": own["effect"].mean(),
                "others": others["effect"].mean(),
                "selectivity": first["selectivity"],
                "ci_low": first["selectivity_ci_low"],
                "ci_high": first["selectivity_ci_high"],
                "control_mean": first["selectivity_control_mean"],
                "control_max": first.get("selectivity_control_max", np.nan),
                "n_controls": first["n_controls"],
                "p_value": first["selectivity_p_value"],
                "shared_by_all": bool(first["shared_by_all"]),
            }
        )
    table = pd.DataFrame(rows)
    table["n_controls"] = table["n_controls"].convert_dtypes()  # may be missing in older tables
    table["p_bh"] = benjamini_hochberg(table["p_value"].to_numpy(dtype=float))
    table["p_floor"] = 1.0 / (1 + table["n_controls"].to_numpy(dtype=float, na_value=np.nan))
    table["at_floor"] = table["p_value"].to_numpy(dtype=float) <= table["p_floor"] * (1 + 1e-9)
    return table


def _verdict(row: dict[str, Any], level: float) -> Verdict:
    if row["shared_by_all"]:
        return "shared by all"
    if np.isnan(row["selectivity"]):
        return "not tested"
    if row["p_bh"] <= level:
        return "selective"
    # More controls could only help a module that no control exceeds, or one whose few controls
    # could not have shown anything.
    if np.isnan(row["p_value"]) or row["at_floor"] or row["p_floor"] > level:
        return "too few controls to say"
    return "not beyond its controls"


def _line(row: dict[str, Any], unit: str) -> str:
    """A row in words."""
    if row["verdict"] == "not tested":
        return "not tested: the prompts lack its own category, or another one"
    said = (
        f"{row['verdict']}: {row['selectivity']:.2f} {unit} more on {row['category']!r} than on "
        "other categories"
    )
    if np.isfinite(row["ci_low"]):
        said += f" (95 % interval {row['ci_low']:.2f} to {row['ci_high']:.2f})"
    if np.isnan(row["p_value"]):
        return f"{said}; no controls"
    said += f"; controls {row['control_mean']:.2f} on average"
    if np.isfinite(row["control_max"]):
        said += f", {row['control_max']:.2f} at most"
    said += f"; p = {row['p_value']:.3g}, {row['p_bh']:.3g} after correction"
    if row["at_floor"]:
        said += f" ({row['n_controls']:.0f} controls give no smaller p)"
    return said


def _sentence(table: pd.DataFrame, level: float) -> str:
    """How many modules have each verdict."""
    counts = Counter(table["verdict"])
    n_tests = int(table["p_value"].notna().sum())
    parts = []
    for kind in _KINDS:
        number = counts[kind]
        if not number and kind != "selective":
            continue
        of = f"{number} of {len(table)} modules" if kind == "selective" else f"{number}"
        is_one = number == 1
        parts.append(f"{of} {_SAID[kind][0 if is_one else 1]}")
        if kind == "selective":
            parts[-1] += f" (p at most {level:g} after Benjamini and Hochberg over {n_tests})"
    if len(parts) == 1:
        return f"{parts[0]}."
    return f"{', '.join(parts[:-1])}, and {parts[-1]}."
