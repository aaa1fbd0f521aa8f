"""Interventions of other papers as targets, to compare them with modules in causal tests.

Each intervention's docstring names its paper.
"""

from tl_modules.related.concept_erasure import ConceptErasure, leace
from tl_modules.related.eigen_shift import EigenShift, eigenshift

__all__ = [
    "ConceptErasure",
    "EigenShift",
    "eigenshift",
    "leace",
]


def __dir__() -> list[str]:
    return __all__
