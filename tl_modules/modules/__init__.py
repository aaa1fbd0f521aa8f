"""Functional modules: disjoint groups of units across all layers, each with its samples.

Modules are the only connection between discovery, interpretation and causal tests.
"""

from tl_modules.modules.lookup import UnitPlace
from tl_modules.modules.module import Module
from tl_modules.modules.module_set import ModuleSet
from tl_modules.modules.objective import Objective
from tl_modules.modules.scored_labels import ScoredLabel, ScoredLabels
from tl_modules.modules.shared_set import SharedSet
from tl_modules.modules.topic import Topic

__all__ = [
    "Module",
    "ModuleSet",
    "Objective",
    "ScoredLabel",
    "ScoredLabels",
    "SharedSet",
    "Topic",
    "UnitPlace",
]
