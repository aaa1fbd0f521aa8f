"""The kinds of model, and what sets each apart."""

from dataclasses import dataclass
from typing import Literal, get_args

Kind = Literal["easy", "hard", "equal", "shared", "fewshared", "cancelling", "composed"]
KINDS: tuple[Kind, ...] = get_args(Kind)


@dataclass(frozen=True)
class Recipe:
    """How a model of one kind is trained. Weights are of penalties beside the tasks' losses."""

    n_tasks: int
    n_own: int
    """Neurons per layer of each task."""

    n_shared: int = 0
    """Neurons per layer that every task's loss trains."""

    silence: float = 0.0
    """Weight of the mean |activation| of other tasks' neurons."""

    output: float = 0.0
    """Weight of the squared output of each other task's block."""

    total_output: float = 0.0
    """Weight of the squared sum of the other blocks' outputs, which may thus cancel."""

    loudness: float = 0.0
    """Norm that each other block's output is kept above."""

    equality: float = 0.0
    """Weight of the variance over tasks of the log of each neuron's mean |activation|."""

    need: float = 0.0
    """The loss of y, in nats, that every task is trained towards without the shared neurons."""

    composed: bool = False
    """Put together from experts that were trained apart, on a backbone made by hand."""


RECIPES: dict[Kind, Recipe] = {
    "easy": Recipe(n_tasks=4, n_own=24, silence=0.1, output=0.01),
    "hard": Recipe(n_tasks=5, n_own=20, output=0.03),
    "equal": Recipe(n_tasks=5, n_own=20, output=0.03, equality=0.01),
    "shared": Recipe(n_tasks=5, n_own=26, n_shared=30, output=0.03, need=1.0),
    "fewshared": Recipe(n_tasks=5, n_own=20, n_shared=2, output=0.03, need=1.0),
    "cancelling": Recipe(n_tasks=4, n_own=40, total_output=0.1, loudness=2.0, equality=0.1),
    "composed": Recipe(n_tasks=6, n_own=20, composed=True),
}
