"""Read chains of thought on multiple-choice questions state by state (Landscape of Thoughts).

Modules are optional: with them, each module's activation is read beside the distances.
"""

from tl_modules.thoughts.states import thought_states
from tl_modules.thoughts.thoughts import Thoughts

__all__ = [
    "Thoughts",
    "thought_states",
]


def __dir__() -> list[str]:
    return __all__
