"""Normalisations of an activation matrix."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from tl_modules.errors import ModulesError

MIN_STD = 1e-8
"""A unit whose standard deviation is below this gets 1, so that it becomes 0, not noise."""


@dataclass(frozen=True)
class ZScore:
    """Each unit's mean and standard deviation over the samples it was fitted on."""

    mean: Float[np.ndarray, " units"]
    """Mean over the samples."""

    std: Float[np.ndarray, " units"]
    """Sample standard deviation (ddof 1); 1 where it is below ``MIN_STD``."""

    @classmethod
    def fit(cls, values: Float[np.ndarray, "samples units"]) -> "ZScore":
        """Fit on a matrix (design: arXiv 2603.17823, the z-score before clustering).

        Raises:
            ModulesError: If there are fewer than two samples.

        >>> ZScore.fit(np.array([[1.0, 5.0], [3.0, 5.0]])).apply(np.array([[2.0, 6.0]])).tolist()
        [[0.0, 1.0]]
        """
        if len(values) < 2:
            raise ModulesError(
                f"A z-score needs at least 2 samples; got {len(values)}. Collect more prompts."
            )
        mean = values.mean(axis=0, dtype=np.float64)
        std = values.std(axis=0, ddof=1, dtype=np.float64)
        return cls(mean, np.where(std < MIN_STD, 1.0, std))

    def apply(
        self, values: Float[np.ndarray, "samples units"]
    ) -> Float[np.ndarray, "samples units"]:
        """The matrix normalised, in its own dtype; held-out samples use the fitted numbers."""
        dtype = values.dtype
        return (values - self.mean.astype(dtype)) / self.std.astype(dtype)
