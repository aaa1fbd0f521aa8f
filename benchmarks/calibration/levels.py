"""How often p-values are at most 0.05, with an interval, and what a simulation of them is."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

LEVEL = 0.05

PValues = Float[np.ndarray, "simulations tests"]
"""P-values under the null; those of one simulation may depend on each other."""


@dataclass(frozen=True)
class Simulation:
    """Runs that give the p-values of one or more kinds of test under their null."""

    run: Callable[[int, int], dict[str, PValues]]
    """``run(n, seed)``: the p-values of ``n`` simulations, by kind of test."""

    null: str
    """What is random under the null."""

    n: int
    """How many simulations the benchmark runs."""


def generator_of(seed: int) -> np.random.Generator:
    """The generator of what is random under the null.

    Controls are seeded by ``[seed, label]``, and zeros at the end of a seed change nothing: 0 would
    give the numbers of ``[0, 0]``.
    """
    return np.random.default_rng([seed, 0, 0, 1])


@dataclass(frozen=True)
class Level:
    """The share of p-values at most 0.05, with a 95 % interval."""

    share: float
    low: float
    high: float
    n_simulations: int
    n_tests: int

    n_effective: float
    """How many independent tests would tell as much."""

    @classmethod
    def of(cls, p_values: PValues) -> "Level":
        """The share, with Wilson's interval for as many independent tests as its variance tells.

        The tests of one simulation may depend on each other, so that the variance is that of the
        simulations' shares; at most all tests count as independent.

        >>> Level.of(np.array([[0.01], [0.5], [0.3], [0.8]])).share
        0.25
        """
        found = p_values <= LEVEL
        n, share = found.size, float(found.mean())
        variance = found.mean(axis=1).var(ddof=1) / len(found)
        if variance > 0:
            n = min(n, share * (1 - share) / variance)
        centre = (share + 1.96**2 / (2 * n)) / (1 + 1.96**2 / n)
        half = 1.96 / (1 + 1.96**2 / n) * np.sqrt(share * (1 - share) / n + (1.96 / (2 * n)) ** 2)
        low, high = float(centre - half), float(centre + half)
        return cls(share, low, high, len(found), found.size, float(n))
