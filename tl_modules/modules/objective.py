"""The parts of the objective that discovery maximises."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Objective:
    """The parts of the ULCMOD objective (arXiv 2603.17823); an empty block makes B and L 0."""

    xi: float
    """Mean activation inside the diagonal blocks (z-score units)."""

    B: float
    """Harmonic mean of the K block sizes, samples x units."""

    L: float
    """xi * B, what discovery maximises."""
