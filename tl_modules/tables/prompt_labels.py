"""Labels of prompts, and the mean of a number over each label's prompts."""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int, Shaped

from tl_modules.tables.bootstrap import N_RESAMPLES, bootstrap_indices


@runtime_checkable
class PromptLabels(Protocol):
    """Labels of prompts that are certain, or known by their probabilities."""

    @property
    def names(self) -> list[str]:
        """The labels."""
        ...

    @property
    def sizes(self) -> Int[np.ndarray, " labels"]:
        """How many prompts each label has."""
        ...

    def means(self, values: Float[np.ndarray, "runs prompts"]) -> Float[np.ndarray, "runs labels"]:
        """The mean of each label's prompts."""
        ...

    def resampled(
        self, values: Float[np.ndarray, " prompts"], seed: int
    ) -> Float[np.ndarray, "resamples labels"]:
        """The means on resamples of the prompts; NaN for a label of fewer than two."""
        ...

    def parts(
        self, values: Float[np.ndarray, " prompts"], name: str
    ) -> Float[np.ndarray, " some_prompts"]:
        """What each prompt adds to the sum over a label's prompts."""
        ...


@dataclass(frozen=True, eq=False)
class KnownLabels:
    """Labels that are certain."""

    names: list[str]
    """The labels, in the order of their first prompts."""

    codes: Int[np.ndarray, " prompts"]
    """The number of each prompt's label."""

    @classmethod
    def of(cls, categories: Shaped[np.ndarray, " prompts"]) -> "KnownLabels":
        """The labels of a column."""
        codes, names = pd.factorize(categories)
        return cls([str(name) for name in names], codes)

    @property
    def sizes(self) -> Int[np.ndarray, " labels"]:
        """How many prompts each label has."""
        return np.bincount(self.codes, minlength=len(self.names))

    def means(self, values: Float[np.ndarray, "runs prompts"]) -> Float[np.ndarray, "runs labels"]:
        """The mean of each label's prompts."""
        members = map(self._members, self.names)
        return np.stack([values[:, each].mean(axis=1) for each in members], axis=1)

    def resampled(
        self, values: Float[np.ndarray, " prompts"], seed: int
    ) -> Float[np.ndarray, "resamples labels"]:
        """The means on bootstrap resamples within each label, so that its size stays."""
        # The strata's numbers follow the labels' alphabetical order.
        places = np.argsort(np.argsort(np.array(self.names, dtype=object), kind="stable"))
        rows = bootstrap_indices(places[self.codes], N_RESAMPLES, seed)
        found = self.means(values[rows])
        # A single prompt has no interval: every resample is that prompt.
        found[:, self.sizes < 2] = np.nan
        return found

    def parts(
        self, values: Float[np.ndarray, " prompts"], name: str
    ) -> Float[np.ndarray, " some_prompts"]:
        """The values of a label's prompts."""
        return values[self._members(name)]

    def column(self) -> list[str]:
        """Each prompt's label."""
        return [self.names[code] for code in self.codes]

    def _members(self, name: str) -> Bool[np.ndarray, " prompts"]:
        return self.codes == self.names.index(name)
