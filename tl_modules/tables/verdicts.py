"""What a table of effects says of each module, in a word and in a sentence."""

from collections import Counter
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd

from tl_modules.errors import ModulesError
from tl_modules.runtime.arguments import checked
from tl_modules.tables.effects_frame import (
    RUN_COLUMNS,
    SHARED,
    SIGNIFICANT,
    check_effects,
    effect_unit,
    flags,
    is_own,
    split_runs,
)
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
much as its own. ``not beyond its controls``: too many random sets of units do as much. ``too few
controls to say``: more controls could still show that the module is selective. ``not tested``: its
own category is not among the prompts', or they have no other one."""

Tested = Literal["modules", "cores"]
"""What a table's rows are of: whole modules, or the core of each, as ``causal_cores`` found it."""

INFORMATIVE: tuple[Verdict, ...] = ("selective", "shared by all", "not beyond its controls")
"""The verdicts that say something of the module, and not only of the test."""

_KINDS: tuple[Verdict, ...] = get_args(Verdict)
_UNSAID: Verdict = "too few controls to say"

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
def verdicts(
    effects: pd.DataFrame, *, level: float = SIGNIFICANT, of: Tested = "modules"
) -> pd.DataFrame:
    """Say of each module whether it matters causally for its own category.

    The verdict rests on selectivity: the effect on the module's own category minus the mean effect
    on the others, beside the same number of the module's controls. P-values are corrected over the
    modules after Benjamini and Hochberg. They cannot be smaller than ``1 / (1 + n_controls)``: a
    module that exceeds all its controls may still have too few of them to pass the correction. Too
    few controls is the verdict where the module would pass if the share of random sets that do as
    much were as small as the lower end of its 95 % interval (Clopper and Pearson).

    Args:
        effects: What ``module_effects`` returned.
        level: The largest corrected p-value of a selective module.
        of: What was ablated, for the sentence: ``"cores"`` for the effects of
            ``causal_cores(...).cores``.

    Returns:
        One row per module: ``module``, ``category`` (its own; missing if it was not tested),
        ``verdict`` (see ``Verdict``), ``effect`` and ``others`` (the effects on the own category
        and the mean on the others), ``selectivity`` with ``ci_low`` and ``ci_high``,
        ``control_mean``, ``control_std`` and ``control_max`` (of selectivity), ``n_controls``,
        ``p_value``, ``p_bh``, ``p_floor`` (the smallest p-value that so many controls can give if
        their number was fixed beforehand), ``at_floor`` and ``line``, the row in words. Effects are
        in nats per token, or in the metric's unit. ``attrs["sentence"]`` is
        ``verdict_sentence(effects, of=of)``. A set of units that all modules share has no row.

    Raises:
        ModulesError: If the table is not of ``module_effects``, holds several runs or one with
            ``keep_only``, or ``level`` does not lie between 0 and 1.

    Example::

        found = tlm.verdicts(tlm.module_effects(model, modules, prompts))
        print(found.attrs["sentence"])
        print(found[["module", "verdict", "line"]])
    """
    if not 0 < level < 1:
        raise ModulesError(f"level should lie between 0 and 1; got {level}. 0.05 is usual.")
    check_effects(effects, _NEEDED)
    if "keep_only" in effects and flags(effects, "keep_only").any():
        raise ModulesError(
            "effects should be of ablated modules; in this table they were kept and all else "
            "ablated, so that low numbers speak for a module. Run module_effects without keep_only."
        )
    effects = effects.loc[effects["module"].astype(str) != SHARED]
    check_effects(effects, _NEEDED)
    runs = split_runs(effects)
    if len(runs) > 1:
        raise ModulesError(
            f"effects should be of one run; this table holds {len(runs)}. Select the rows of one: "
            f"{' and '.join(f'{name}={value}' for name, value in runs[0][0].items())}, for one."
        )
    table = _numbers(effects)
    could_pass = _could_pass(table, level)
    rows = table.to_dict(orient="records")
    table.insert(
        2, "verdict", [_verdict(*each, level) for each in zip(rows, could_pass, strict=True)]
    )
    unit = effect_unit(runs[0][0])
    table["line"] = [_line(row, unit) for row in table.to_dict(orient="records")]
    table = table.drop(columns="shared_by_all")
    table.attrs["sentence"] = _sentence(table, level, of)
    return table


def verdict_sentence(
    effects: pd.DataFrame, *, level: float = SIGNIFICANT, of: Tested = "modules"
) -> str:
    """Say in one sentence how many modules matter causally for their own categories.

    Args:
        effects: What ``module_effects`` returned.
        level: The largest corrected p-value of a selective module.
        of: What was ablated: ``"cores"`` for the effects of ``causal_cores(...).cores``.

    Returns:
        A sentence with the numbers of modules by verdict, and the correction. If most have too few
        controls to say, it begins with them.

    Raises:
        ModulesError: As in ``verdicts``.

    Example::

        print(tlm.verdict_sentence(effects))
    """
    return str(verdicts(effects, level=level, of=of).attrs["sentence"])


def has_verdicts(effects: pd.DataFrame) -> bool:
    """Whether a table has verdicts: not one of an earlier version, or of kept modules."""
    if not set(_NEEDED) <= set(effects.columns) or not len(effects):
        return False
    return "keep_only" not in effects or not flags(effects, "keep_only").any()


def agreed_verdicts(effects: pd.DataFrame) -> dict[int, str | None] | None:
    """Each module's verdict, None where several runs in the table do not agree.

    A run that says nothing of a module (see ``INFORMATIVE``) does not disagree with one that does.

    Args:
        effects: What ``module_effects`` returned, or several such tables below each other.

    Returns:
        None for a table that has no verdicts, such as one of an earlier version, or runs that
        cannot be told apart.
    """
    if not has_verdicts(effects):
        return None
    apart = [name for name in (*RUN_COLUMNS, "module", "category") if name in effects]
    if effects.duplicated(apart).any():
        return None
    found: dict[int, set[str]] = {}
    for _, table in split_runs(effects):
        judged = verdicts(table)
        for module, said in zip(judged["module"], judged["verdict"], strict=True):
            found.setdefault(int(module), set()).add(str(said))
    agreed: dict[int, str | None] = {}
    for module, said in found.items():
        telling = sorted(said & set(INFORMATIVE)) or sorted(said)[:1]
        agreed[module] = telling[0] if len(telling) == 1 else None
    return agreed


def _numbers(effects: pd.DataFrame) -> pd.DataFrame:
    """The numbers behind the verdicts, one row per module."""
    effects = effects.assign(own=is_own(effects))
    shared = flags(effects, "shared_by_all") if "shared_by_all" in effects else False
    effects = effects.assign(shared_by_all=shared)
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
                "control_std": first.get("selectivity_control_std", np.nan),
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


def _could_pass(table: pd.DataFrame, level: float) -> list[bool]:
    """Whether each module would pass the correction with the smallest p-value that is plausible."""
    from scipy.stats import beta  # slow to import

    p_values = table["p_value"].to_numpy(dtype=float)
    n_controls = table["n_controls"].to_numpy(dtype=float, na_value=np.nan)
    exceeding = np.maximum(np.round(p_values * (1 + n_controls)) - 1, 0)
    with np.errstate(invalid="ignore"):
        least = beta.ppf(0.025, exceeding, n_controls - exceeding + 1)
    least = np.where(exceeding > 0, least, 0.0)
    found = []
    for at, (p_value, lower) in enumerate(zip(p_values, least, strict=True)):
        if np.isnan(p_value) or np.isnan(n_controls[at]):
            found.append(True)  # nothing speaks against it
            continue
        changed = p_values.copy()
        changed[at] = lower
        found.append(bool(benjamini_hochberg(changed)[at] <= level))
    return found


def _verdict(row: dict[str, Any], could_pass: bool, level: float) -> Verdict:
    if row["shared_by_all"]:
        return "shared by all"
    if np.isnan(row["selectivity"]):
        return "not tested"
    if row["selectivity"] <= 0:
        return "not beyond its controls"
    if row["p_bh"] <= level:
        return "selective"
    return _UNSAID if could_pass else "not beyond its controls"


def _line(row: dict[str, Any], unit: str) -> str:
    """A row in words."""
    if np.isnan(row["selectivity"]):
        return f"{row['verdict']}: the prompts lack its own category, or another one"
    said = (
        f"{row['verdict']}: selectivity {row['selectivity']:.2f} for {row['category']!r} ({unit})"
    )
    if np.isfinite(row["ci_low"]):
        said += f", 95 % interval {row['ci_low']:.2f} to {row['ci_high']:.2f}"
    if np.isnan(row["p_value"]):
        return f"{said}; no controls"
    said += f"; controls {row['control_mean']:.2f} on average"
    if np.isfinite(row["control_max"]):
        said += f", {row['control_max']:.2f} at most"
    said += f"; p = {row['p_value']:.3g}, {row['p_bh']:.3g} after correction"
    if row["at_floor"]:
        said += f" ({row['n_controls']:.0f} controls give no smaller p)"
    return said


def _sentence(table: pd.DataFrame, level: float, of: Tested) -> str:
    """How many modules, or cores, have each verdict; what is said of most comes first."""
    counts, n = Counter(table["verdict"]), len(table)
    cores = of == "cores"
    if counts[_UNSAID] == n:
        whose = "cores of the " if cores else ""
        what = f"whether the {whose}{n} modules are selective"
        return f"Too few controls to say {what}: {_enough(table)}."
    kinds = [kind for kind in _KINDS if counts[kind] or kind == "selective"]
    parts = []
    if 2 * counts[_UNSAID] > n:
        whose = "the cores of " if cores else ""
        what = f"whether {whose}{counts[_UNSAID]} of {n} modules are selective"
        parts = [f"Too few controls to say {what} ({_enough(table)})"]
        kinds = [kind for kind in kinds if counts[kind] and kind != _UNSAID]
    for kind in kinds:
        number = counts[kind]
        said = f"{number}"
        if not parts:
            whose = ("The core of " if number == 1 else "The cores of ") if cores else ""
            said = f"{whose}{number} of {n} modules"
        said += f" {_SAID[kind][0 if number == 1 else 1]}"
        parts.append(said + (_correction(table, level) if kind == "selective" else ""))
    if len(parts) == 1:
        return f"{parts[0]}."
    return f"{', '.join(parts[:-1])}, and {parts[-1]}."


def _enough(table: pd.DataFrame) -> str:
    """How many controls the modules have that have too few."""
    numbers = table["n_controls"].to_numpy(dtype=float, na_value=0.0)
    of_these = numbers[table["verdict"] == _UNSAID]
    most = int(of_these.max(initial=0.0))
    if not most:
        return "no controls"
    return f"{'at most ' if of_these.min() < most else ''}{most} controls each"


def _correction(table: pd.DataFrame, level: float) -> str:
    """What selective means, in parentheses."""
    n = int(np.count_nonzero(~np.isnan(table["p_value"].to_numpy(dtype=float))))
    if not n:
        return ""
    tests = "1 test" if n == 1 else f"{n} tests"
    return f" (p at most {level:g} after Benjamini and Hochberg's correction for {tests})"
