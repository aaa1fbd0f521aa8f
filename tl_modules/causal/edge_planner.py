"""Which module to patch next, from what the interventions so far say of its edges."""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.special import stdtr, stdtrit

Strategy = Literal["information", "random"]
"""How the next module is chosen."""

ChosenBy = Literal["information", "guess", "random"]
"""What chose a module."""

RANDOM_SHARE = 0.1
"""The share of interventions that go to a random one of the modules patched least."""

_N_OUTCOMES = 16
"""How many possible outcomes of an intervention the expected information is averaged over."""


class Choice(NamedTuple):
    """The next source."""

    source: int
    """The module's place."""

    chosen_by: ChosenBy
    """What chose it."""

    information: float
    """What one more intervention is expected to say, in bits per edge; 1 if there was none yet."""


class EdgePlanner:
    """Is told what each intervention did to the other modules, and names the next source.

    An edge's effect is the ratio ``sum parts / sum wholes`` over the prompts seen, such as the
    share of a target's change that patching the source brings about. With a flat prior and normal
    residuals, the effect over all prompts has Student's t distribution around that ratio. So the
    probability of an edge, an effect of at least ``least_effect``, is a tail of it. The information
    of a source is by how many bits, on average over its edges, one more intervention is expected
    to reduce the entropy of "is an edge". Every edge of a source that was never patched counts
    one bit, so that each module is patched once before any is patched twice, but for random picks
    and the guess.

    A guess changes the order alone, never an estimate. It lowers the score of modules that it does
    not name first, by a weight that falls with the number of interventions on them.
    """

    def __init__(
        self,
        n_modules: int,
        *,
        n_prompts: int,
        least_effect: float = 0.1,
        strategy: Strategy = "information",
        guess: Sequence[int] = (),
        guess_weight: float = 0.5,
        seed: int = 0,
    ) -> None:
        """Begin without observations.

        Args:
            n_modules: The number of modules.
            n_prompts: Prompts per intervention.
            least_effect: The smallest effect that makes an edge.
            strategy: ``"information"``, or ``"random"``: all modules in a random order, then again.
            guess: Places of modules that may have many edges, the most promising first.
            guess_weight: By how much the score is lower of a module that was never patched and that
                the guess does not name, below 1.
            seed: Seed of ties and random picks.
        """
        self._n_new = n_prompts
        self._least = least_effect
        self._strategy: Strategy = strategy
        self._weight = guess_weight if len(guess) else 0.0
        self._guess = np.zeros(n_modules)
        self._guess[list(guess)] = 1 - np.arange(len(guess)) / max(len(guess), 1)
        self._generator = np.random.default_rng(seed)
        self.n_interventions: Int[np.ndarray, " modules"] = np.zeros(n_modules, dtype=np.int64)
        """Interventions on each module so far."""
        self.n_prompts: Int[np.ndarray, " modules"] = np.zeros(n_modules, dtype=np.int64)
        """Prompts on which each module was patched so far."""
        self._sums = np.zeros((5, n_modules, n_modules))
        self._information = np.ones(n_modules)

    def observe(
        self,
        source: int,
        parts: Float[np.ndarray, "prompts modules"],
        wholes: Float[np.ndarray, "prompts modules"],
    ) -> None:
        """Add what one intervention did.

        Args:
            source: The place of the module that was patched.
            parts: How far each module moved on each prompt; the source's own column is ignored.
            wholes: How far each module could have moved.
        """
        terms = (parts, wholes, parts**2, parts * wholes, wholes**2)
        self._sums[:, source] += np.array([term.sum(axis=0) for term in terms])
        self.n_interventions[source] += 1
        self.n_prompts[source] += len(parts)
        others = np.arange(len(self._guess)) != source
        self._information[source] = float(self._expected_information(source)[others].mean())

    def next_source(self, eligible: Bool[np.ndarray, " modules"] | None = None) -> Choice:
        """Choose the next source.

        Args:
            eligible: Modules that may be chosen, at least one; all by default.

        Returns:
            The choice. Ties are broken at random.
        """
        count = len(self._guess)
        places = np.arange(count) if eligible is None else np.flatnonzero(eligible)
        if self._strategy == "random" or self._generator.random() < RANDOM_SHARE:
            source = self._largest(-self.n_interventions, places)
            return Choice(source, "random", float(self._information[source]))
        weight = self._weight / (1 + self.n_interventions)
        # A product, so that no guess calls for a module of which nothing remains to be learned.
        score = self._information * (1 - weight * (1 - self._guess))
        source = self._largest(score, places)
        best = self._information[places].max()
        tied = np.count_nonzero(self._information[places] == best) > 1
        guessed = self._guess[source] > 0 and (tied or self._information[source] < best)
        chosen_by: ChosenBy = "guess" if self._weight and guessed else "information"
        return Choice(source, chosen_by, float(self._information[source]))

    def _largest(self, score: np.ndarray, places: Int[np.ndarray, " _places"]) -> int:
        best = places[score[places] == score[places].max()]
        return int(self._generator.choice(best))

    def effects(self) -> Float[np.ndarray, "modules modules"]:
        """The effect of each source on each target, sources down; NaN where nothing was seen."""
        return _ratios(self._sums, self.n_prompts[:, None])[0]

    def intervals(
        self,
    ) -> tuple[Float[np.ndarray, "modules modules"], Float[np.ndarray, "modules modules"]]:
        """The lower and upper ends of 95 % intervals over prompts; NaN for fewer than two."""
        effects, variances = _ratios(self._sums, self.n_prompts[:, None])
        degrees = np.where(self.n_prompts > 1, self.n_prompts - 1, np.nan)[:, None]
        half = stdtrit(degrees, 0.975) * np.sqrt(variances)
        return effects - half, effects + half

    def probabilities(self) -> Float[np.ndarray, "modules modules"]:
        """The probability that each pair is an edge; 0.5 for fewer than two prompts."""
        number = self.n_prompts[:, None]
        return _above(*_ratios(self._sums, number), number - 1, self._least)

    def _expected_information(self, source: int) -> Float[np.ndarray, " modules"]:
        """By how many bits another intervention should reduce the entropy of each edge."""
        seen, new = int(self.n_prompts[source]), self._n_new
        if seen < 2:
            return np.ones(len(self._guess))
        effects, variances = _ratios(self._sums[:, source], np.array(seen))
        later = variances * seen / (seen + new)
        quantiles = stdtrit(seen - 1, (np.arange(_N_OUTCOMES) + 0.5) / _N_OUTCOMES)
        moved = effects + np.sqrt(variances - later) * quantiles[:, None]
        now = _entropy(_above(effects, variances, seen - 1, self._least))
        then = _entropy(_above(moved, later, seen + new - 1, self._least)).mean(axis=0)
        return np.maximum(now - then, 0)


def _ratios(
    sums: Float[np.ndarray, " sums *edges"], number: Int[np.ndarray, " *_prompts"]
) -> tuple[Float[np.ndarray, " *edges"], Float[np.ndarray, " *edges"]]:
    """Ratios of sums over prompts, and their squared standard errors; NaN where not known."""
    parts, wholes, squares, products, whole_squares = sums
    with np.errstate(invalid="ignore", divide="ignore"):
        ratios = np.where(wholes > 0, parts / wholes, np.nan)
        residuals = squares - 2 * ratios * products + ratios**2 * whole_squares
        # Rounding may leave a sum of squares below 0.
        variances = number / (number - 1) * np.maximum(residuals, 0) / wholes**2
    return ratios, np.where(number > 1, variances, np.nan)


def _above(
    means: Float[np.ndarray, " *shape"],
    variances: Float[np.ndarray, " *edges"],
    degrees: int | np.ndarray,
    least: float,
) -> Float[np.ndarray, " *shape"]:
    """The probability that an effect is at least ``least``; 0.5 where nothing is known."""
    with np.errstate(invalid="ignore", divide="ignore"):
        distance = (means - least) / np.sqrt(variances)
    # Without variance, an effect of exactly ``least`` is 0 / 0.
    distance = np.where((variances == 0) & (means == least), np.inf, distance)
    known = np.isfinite(means) & np.isfinite(variances)
    return np.where(known, stdtr(degrees, np.where(known, distance, 0.0)), 0.5)


def _entropy(probability: Float[np.ndarray, " *shape"]) -> Float[np.ndarray, " *shape"]:
    """The entropy of yes or no, in bits."""
    inside = np.clip(probability, 1e-300, 1 - 1e-16)
    return -(inside * np.log2(inside) + (1 - inside) * np.log2(1 - inside))
