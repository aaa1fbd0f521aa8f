"""Chains of thought on multiple-choice questions, read state by state (Landscape of Thoughts).

Modules are an option: the states are read without any.
"""

from tl_modules.thoughts.states import thought_states
from tl_modules.thoughts.thoughts import Thoughts

__all__ = [
    "Thoughts",
    "thought_states",
]


def __dir__() -> list[str]:
    return __all__
