"""Means over each label's prompts where a prompt's label is known by its probabilities."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Int

from tl_modules.errors import ModulesError
from tl_modules.runtime.call_warnings import warn_user
from tl_modules.tables.labels import quoted
from tl_modules.tables.prompt_labels import KnownLabels

N_REFITS = 200
"""How often the labels are estimated anew, each time with other weights of the prompts."""

CERTAIN = 1e-6
"""Probabilities nearer to 0 and 1 than this, in every fit, are of labels that are certain."""

ENOUGH = 0.5
"""A label has prompts if their probabilities of it sum to as much: half a prompt."""


@dataclass(frozen=True, eq=False)
class Refits:
    """Estimates of the same prompts' labels, each with random weights of the prompts."""

    weights: Float[np.ndarray, "refits prompts"]
    """How much each prompt counts; their mean is 1."""

    probabilities: Float[np.ndarray, "refits prompts labels"]
    """The probability of each label for each prompt."""


@runtime_checkable
class HasLabelRefits(Protocol):
    """Labels that are not certain: what ``annotate`` returned."""

    @property
    def labels(self) -> list[str]:
        """The labels."""
        ...

    @property
    def probabilities(self) -> Float[np.ndarray, "prompts labels"]:
        """The probability of each label for each prompt."""
        ...

    def refitted(self, prompts: Sequence[str], n_refits: int, seed: int) -> Refits:
        """Estimate these prompts' labels anew; other prompts raise an error."""
        ...


@dataclass(frozen=True, eq=False)
class UncertainLabels:
    """Labels by their probabilities: a mean is a coefficient of a regression on these.

    A prompt whose label is k with probability p has the expected value sum of p times k's mean, if
    the value does not depend on the probabilities given the true label. So the coefficients of a
    least-squares regression of the values on the probabilities are the labels' means. Means of the
    prompts that probably have a label are nearer to each other, because some prompts have another
    one. With certain labels both are the same.
    """

    names: list[str]
    """The labels, without those that have no prompts."""

    probabilities: Float[np.ndarray, "prompts labels"]
    """Each prompt's probabilities of ``names``."""

    coefficients: Float[np.ndarray, "labels prompts"]
    """What turns values into the labels' means."""

    refitted: Float[np.ndarray, "refits labels prompts"]
    """The same in each refit: of its weights, by its probabilities."""

    @classmethod
    def of(
        cls, labels: HasLabelRefits, prompts: Sequence[str], seed: int
    ) -> "UncertainLabels | KnownLabels":
        """Estimate labels. A label that has no prompts in some refit is left out, with a warning.

        Args:
            labels: What the labels are known from.
            prompts: The prompts' texts.
            seed: Seeds the refits.

        Returns:
            The labels; as certain ones, if they are.

        Raises:
            ModulesError: If the labels are of other prompts, or every label is left out.
        """
        refits = labels.refitted(prompts, N_REFITS, seed)
        every = np.concatenate([labels.probabilities[None], refits.probabilities])
        has_prompts = every.sum(axis=1) >= ENOUGH
        stays = has_prompts.all(axis=0)
        texts = np.array(labels.labels, dtype=object)
        names, left_out = texts[stays].tolist(), texts[has_prompts.any(axis=0) & ~stays].tolist()
        if not names:
            raise ModulesError(
                f"Some label should have a prompt in each of {N_REFITS} estimates; none of "
                f"{quoted(left_out)} has. Add prompts, or annotators that agree more."
            )
        if left_out:
            warn_user(
                f"Labels that are so rare, or so uncertain, that they have no prompt in some of "
                f"{N_REFITS} estimates are left out: {quoted(left_out)}. Add prompts of them."
            )
        if np.abs(every - every[0].round()).max() <= CERTAIN:
            return KnownLabels.of(texts[every[0].argmax(axis=1)])
        weights = np.concatenate([np.ones((1, len(prompts))), refits.weights])
        found = _coefficients(every, weights)[:, stays]
        return cls(names, labels.probabilities[:, stays], found[0], found[1:])

    @property
    def sizes(self) -> Int[np.ndarray, " labels"]:
        """How many prompts each label is expected to have."""
        return np.rint(self.probabilities.sum(axis=0)).astype(np.int64)

    def means(self, values: Float[np.ndarray, "runs prompts"]) -> Float[np.ndarray, "runs labels"]:
        """The mean of each label's prompts."""
        return values @ self.coefficients.T

    def resampled(
        self, values: Float[np.ndarray, " prompts"], seed: int
    ) -> Float[np.ndarray, "refits labels"]:
        """The means in each refit, whose weights resample the prompts; ``seed`` is not used."""
        del seed
        found = self.refitted @ values
        found[:, self.sizes < 2] = np.nan
        return found

    def parts(
        self, values: Float[np.ndarray, " prompts"], name: str
    ) -> Float[np.ndarray, " some_prompts"]:
        """What each prompt adds to the sum over a label's prompts."""
        at = self.names.index(name)
        found = self.coefficients[at] * self.probabilities[:, at].sum()
        counts = np.abs(found) > CERTAIN
        return (found * values)[counts]

    def column(self) -> list[str]:
        """A label per prompt, for what reads a column: the likeliest, and each label once."""
        numbers = self.probabilities.argmax(axis=1)
        for missing in np.setdiff1d(np.arange(len(self.names)), numbers):
            numbers[self.probabilities[:, missing].argmax()] = missing
        return [self.names[at] for at in numbers]


def _coefficients(
    probabilities: Float[np.ndarray, "fits prompts labels"],
    weights: Float[np.ndarray, "fits prompts"],
) -> Float[np.ndarray, "fits labels prompts"]:
    """What turns values into the coefficients of their weighted regression on probabilities."""
    roots = np.sqrt(weights)[..., None]
    return np.linalg.pinv(roots * probabilities, rcond=1e-9) * roots.transpose(0, 2, 1)
