"""What a table of effects says of the modules of a set: verdicts, and which are shared by all."""

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from tl_modules.modules.shared_set import SHARED
from tl_modules.tables.effects_frame import check_effects, shared_modules, split_runs
from tl_modules.tables.verdicts import INFORMATIVE, agreed_verdicts, verdict_sentence

LEAST = {"n_controls": 3, "n": 2}
"""The numbers of controls, and of prompts per category, without which no module is found to be
shared by all."""

if TYPE_CHECKING:
    from tl_modules.modules.module_set import ModuleSet


def _newer(was: str | None, said: str | None) -> str | None:
    """The new verdict, unless it says nothing of the module and the old one does."""
    return was if was in INFORMATIVE and said not in (None, *INFORMATIVE) else said


def with_shared(modules: "ModuleSet", effects: pd.DataFrame) -> "ModuleSet":
    """What ``ModuleSet.with_effects`` returns.

    Raises:
        ModulesError: If ``effects`` is no table of effects of these modules.
    """
    if "module" in effects:
        effects = effects.loc[effects["module"].astype(str) != SHARED]
    check_effects(effects, ("module", "category", "effect"), modules.n_modules)
    said = agreed_verdicts(effects)
    if said is not None:
        before = modules.verdicts or (None,) * modules.n_modules
        verdicts = tuple(_newer(was, said.get(k, was)) for k, was in enumerate(before))
        sentence = modules.verdict_sentence if verdicts == modules.verdicts else None
        # The sentence is of one run; it has to count the verdicts that the set holds.
        if len(split_runs(effects)) == 1 and verdicts == tuple(map(said.get, range(len(verdicts)))):
            sentence = verdict_sentence(effects, of=modules.holds)
        modules = replace(modules, verdicts=verdicts, verdict_sentence=sentence)
    found = shared_modules(effects)
    if found is None:
        return modules
    known = modules.shared_by_all or (False,) * modules.n_modules
    # A table of few controls or prompts says no of every module, and takes no name back.
    enough = np.ones(len(effects), dtype=bool)
    for column, least in LEAST.items():
        if column in effects:
            enough &= effects[column].to_numpy() >= least
    tested = set(effects["module"].to_numpy()[enough]) | found
    flags = [k in found if k in tested else was for k, was in enumerate(known)]
    return replace(modules, shared_by_all=tuple(flags))
