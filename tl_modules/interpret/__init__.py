"""Describe modules: their topics, their layers, how they nest and which categories they cover.

These functions read activations and weights; none of them intervenes on a model.
"""

from tl_modules.interpret.categories_covered import Coverage, coverage
from tl_modules.interpret.category_pairs import category_similarity
from tl_modules.interpret.depth import module_depth, module_layers
from tl_modules.interpret.labellers import LabelEvidence, LabellerError
from tl_modules.interpret.labels import with_labels
from tl_modules.interpret.language_consistency import LanguageConsistency, language_consistency
from tl_modules.interpret.language_neurons import LanguageNeurons, language_neurons
from tl_modules.interpret.merge_tree import Hierarchy, hierarchy
from tl_modules.interpret.nesting import Nestedness, nestedness
from tl_modules.interpret.topics import with_topics
from tl_modules.interpret.unit_table import describe_units
from tl_modules.interpret.values_by_token import token_values

__all__ = [
    "Coverage",
    "Hierarchy",
    "LabelEvidence",
    "LabellerError",
    "LanguageConsistency",
    "LanguageNeurons",
    "Nestedness",
    "category_similarity",
    "coverage",
    "describe_units",
    "hierarchy",
    "language_consistency",
    "language_neurons",
    "module_depth",
    "module_layers",
    "nestedness",
    "token_values",
    "with_labels",
    "with_topics",
]
