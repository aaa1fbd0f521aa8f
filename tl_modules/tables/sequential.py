"""Monte Carlo p-values that need few controls where the answer is soon clear."""

from dataclasses import dataclass
from math import ceil, comb

import numpy as np
from jaxtyping import Bool

LEVEL = 0.05
"""The level that the rule is made for, after Holm's correction over all tests."""

ENOUGH = 10
"""Exceedances after which a test stops (Besag & Clifford 1991)."""

LIMIT = 999
"""Controls at most, unless that many could not pass Holm's correction."""


@dataclass(frozen=True)
class StoppingRule:
    """When a test against random controls has seen enough of them, and its p-value then.

    An exceedance is a control whose number is at least as large as the module's. A test stops after
    ``ENOUGH`` exceedances: the module is no better than many of its controls (Besag & Clifford
    1991, "Sequential Monte Carlo p-values"). It also stops at ``early`` controls if none of them
    exceeds the module: the p-value then passes the correction for several tests. A test between
    the two goes on to ``limit`` controls.

    The p-value is the probability, under the null, of an end that speaks at least as clearly
    against it. Under the null the module is exchangeable with its controls, so that after n
    controls every number of exceedances from 0 to n is equally likely. The p-value is therefore
    exact for this rule, not only for a number of controls that was fixed beforehand.
    """

    early: int
    """Controls after which a test without exceedances stops."""

    limit: int
    """Controls after which every test stops."""

    @classmethod
    def for_tests(cls, n_tests: int) -> "StoppingRule":
        """The rule under which one true effect among several tests can pass Holm's correction.

        Args:
            n_tests: How many tests are corrected together.

        Returns:
            A rule whose early p-value is half of what Holm's correction asks for.

        >>> StoppingRule.for_tests(7)
        StoppingRule(early=279, limit=999)
        """
        early = ceil(2 * max(n_tests, 1) / LEVEL) - 1
        return cls(early, max(early, LIMIT))

    def n_used(self, exceeds: Bool[np.ndarray, " controls"]) -> int | None:
        """How many controls the test used.

        Args:
            exceeds: Whether each control exceeds the module, in the order of the draws.

        Returns:
            The number of controls at the stop; None if the test needs more.

        >>> StoppingRule(early=39, limit=999).n_used(np.zeros(60, dtype=bool))
        39
        """
        counts = np.cumsum(exceeds[: self.limit])
        if len(counts) >= self.early and counts[self.early - 1] == 0:
            return self.early
        if len(counts) and counts[-1] >= ENOUGH:
            return int(np.argmax(counts >= ENOUGH)) + 1
        return self.limit if len(counts) == self.limit else None

    def p_value(self, exceeds: Bool[np.ndarray, " controls"]) -> float:
        """The one-sided p-value of a test that has stopped, or has no more controls to draw.

        Args:
            exceeds: Whether each control exceeds the module, in the order of the draws.

        Returns:
            A value above 0, at most 1; NaN without controls.

        >>> StoppingRule(early=39, limit=999).p_value(np.zeros(39, dtype=bool))
        0.025
        >>> StoppingRule(early=39, limit=999).p_value(np.ones(12, dtype=bool))
        1.0
        """
        if not len(exceeds):
            return float("nan")
        n_used = self.n_used(exceeds)
        used = exceeds[:n_used]
        n_controls, n_exceeding = len(used), int(np.count_nonzero(used))
        if n_exceeding >= ENOUGH:  # the last one exceeds: ends with fewer before it say more
            n_controls, n_exceeding = n_controls - 1, ENOUGH - 1
        return self._at_most(n_exceeding, n_controls)

    def _at_most(self, n_exceeding: int, n_controls: int) -> float:
        """The null's probability of at most so many exceedances, or of an early stop."""
        if n_controls <= self.early:
            return (1 + n_exceeding) / (1 + n_controls)
        after = n_controls - self.early
        # Of the sequences with k exceedances in all, those whose k are all after ``early`` stopped.
        stopped = [comb(after, k) / comb(n_controls, k) for k in range(1, n_exceeding + 1)]
        going_on = sum(1 - share for share in stopped) / (1 + n_controls)
        return 1 / (1 + self.early) + going_on
