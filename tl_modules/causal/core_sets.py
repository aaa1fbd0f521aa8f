"""The first units of each ranking as targets, and the tables of what ablating them does."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd

from tl_modules.causal.controls import ControlKind
from tl_modules.causal.core_numbers import core_numbers, own_and_others, selectivities
from tl_modules.causal.core_rankings import Evidence, Ranking, ranked
from tl_modules.causal.core_sizes import rungs
from tl_modules.causal.experiment import Experiment, run_experiment
from tl_modules.causal.options import Options
from tl_modules.interventions.replacements import HasUnitMeans
from tl_modules.interventions.unit_target import UnitTarget
from tl_modules.models.hooked_model import HookedModel
from tl_modules.modules.module_set import ModuleSet
from tl_modules.tables.bootstrap import N_RESAMPLES, bootstrap_indices
from tl_modules.units import Units


@dataclass(frozen=True, eq=False)
class CoreSet(UnitTarget):
    """The first units of a ranking."""

    label: str
    """A name that no other set has."""

    category: str | None
    """The module's own category."""

    units: Units
    reference: HasUnitMeans | None = field()  # it has no default, unlike a UnitTarget's
    module: int
    ranking: Ranking


def core_sets(
    modules: ModuleSet,
    rankings: Sequence[Ranking],
    sizes: Sequence[int],
    evidence: Evidence,
    exclude: Units | None,
) -> list[CoreSet]:
    """The sets of every module, ranking and size.

    Args:
        modules: The modules; those without units have no sets.
        rankings: The rankings.
        sizes: What ``core_sizes`` returned.
        evidence: What the rankings rest on.
        exclude: Units that are in no set.
    """
    site = modules.units.every()
    left_out = np.empty(0, dtype=np.int64) if exclude is None else exclude.flat()
    sets = []
    for module in modules:
        category = str(module.category)
        n_units = int((~np.isin(module.units.flat(), left_out)).sum())
        for ranking in rankings if n_units else ():
            order = ranked(ranking, module, category, evidence)
            order = order[~np.isin(order, left_out)]
            for size in rungs(sizes, n_units):
                label = f"{module.label}, {ranking}, {size}"
                units = site.select(np.sort(order[:size]))
                sets.append(CoreSet(label, category, units, modules, module.label, ranking))
    return sets


def choice_of(found: Experiment, cores: Iterable[CoreSet], share: float) -> pd.DataFrame:
    """The smallest core of each module whose selectivity reaches a share of the largest.

    Args:
        found: What ablating each core did.
        cores: The cores of all sizes, module by module, smallest first.
        share: The share.

    Returns:
        One row per core, as ``CausalCores.choice``. Where no core is selective, the one with the
        largest selectivity is chosen.
    """
    rows = []
    for core, outcome in zip(cores, found.outcomes, strict=True):
        own, others = own_and_others(outcome.rises, found.categories, str(core.category))[0]
        row = {"module": core.module, "n_units": core.size, "effect": own, "others": others}
        rows.append(row | {"selectivity": own - others})
    table = pd.DataFrame(rows)
    table["chosen"] = False
    for rows_of in table.groupby("module").groups.values():
        values = table.loc[rows_of, "selectivity"].to_numpy(dtype=float)
        best = values.max()
        first = int(np.argmax(values >= (share * best if best > 0 else best)))
        table.loc[rows_of[first], "chosen"] = True
    return table


def tested(
    model: HookedModel,
    sets: Sequence[CoreSet],
    frame: pd.DataFrame,
    options: Options,
    kinds: Sequence[ControlKind],
) -> pd.DataFrame:
    """What ablating each set does, and the cores' controls; see ``CausalCores.table``.

    Args:
        model: The model.
        sets: The sets of all rankings.
        frame: The prompts.
        options: The experiment's options, with the number of controls of each kind.
        kinds: The kinds of control that the cores are held against.
    """
    alone = replace(options, n_controls=0)
    # A whole module is the last set of several rankings: it is ablated once.
    members = [each.units.flat().tobytes() for each in sets]
    once = dict(zip(members, sets, strict=True))
    found = run_experiment(model, list(once.values()), frame, alone)
    outcomes = dict(zip(once, found.outcomes, strict=True))
    draws = bootstrap_indices(
        pd.factorize(found.categories, sort=True)[0], N_RESAMPLES, options.seed
    )
    rows = []
    for each, key in zip(sets, members, strict=True):
        row = {"module": each.module, "category": each.category, "ranking": each.ranking}
        row |= {"n_units": each.size, "share": each.size / len(each.units.every())}
        rows.append(
            row | core_numbers(outcomes[key].rises[0], found.categories, str(each.category), draws)
        )
    table = pd.DataFrame(rows)
    cores = [each for each in sets if each.ranking == "core"]
    keys = [[options.seed, each.module, each.size] for each in cores]
    for kind in kinds:
        beside = replace(options, controls=kind)
        table = _with_controls(
            table, run_experiment(model, cores, frame, beside, keys=keys), cores, kind
        )
    return table


def _with_controls(
    table: pd.DataFrame, found: Experiment, cores: Iterable[CoreSet], kind: ControlKind
) -> pd.DataFrame:
    """With the selectivity of each core's controls of one kind: mean, smallest and largest."""
    rows = []
    for core, outcome in zip(cores, found.outcomes, strict=True):
        controls = selectivities(outcome.rises[1:], found.categories, str(core.category))
        row = {"module": core.module, "ranking": core.ranking, "n_units": core.size}
        found_of = {"": controls.mean(), "_min": controls.min(), "_max": controls.max()}
        row |= {f"{kind}_selectivity{end}": value for end, value in found_of.items()}
        rows.append(row)
    return table.merge(pd.DataFrame(rows), how="left")


def units_of_cores(cores: Iterable[CoreSet], evidence: Evidence) -> pd.DataFrame:
    """Tabulate the units of some cores; see ``CausalCores.units``.

    Args:
        cores: The cores.
        evidence: What ranked their units.
    """
    frames = []
    for core in cores:
        scores = evidence.contrasts[str(core.category)][core.units.flat()]
        frame = core.units.to_frame().assign(score=scores)
        frame.insert(0, "module", core.module)
        frame.insert(1, "category", core.category)
        frames.append(frame.iloc[np.argsort(-scores, kind="stable")])
    return pd.concat(frames, ignore_index=True)
