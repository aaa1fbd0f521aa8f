"""The sums over labels that IterD needs of a matrix."""

from functools import partial
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Int, Shaped

from tl_modules.discovery import _kernel
from tl_modules.discovery._gram import gram_times
from tl_modules.discovery.components import leading_components
from tl_modules.errors import ModulesError
from tl_modules.runtime.compiled_threads import start_threads

SampleLabels = Int[np.ndarray, " samples"]
UnitLabels = Int[np.ndarray, " units"]
Moved = Int[np.ndarray, " moved"]
SampleSums = Float[np.ndarray, "samples modules"]
UnitSums = Float[np.ndarray, "units modules"]
_Tile = Float[np.ndarray, "rows units"]

N_SOME = 4096
"""A start looks at this number of units, or at up to twice as many. Of 46,080 units they lead to
the objective that all units lead to (``benchmarks/start.py``), in a tenth of the time."""

_RUN = 16
"""Sampled units lie in runs, so that a row's values share cache lines."""

_LARGEST_TO_SQUARE = 1e15
"""Sums of squares of larger values may overflow in float32."""


@runtime_checkable
class Products(Protocol):
    """A normalised matrix as IterD uses it: sums of rows or columns by label, in float64."""

    @property
    def shape(self) -> tuple[int, int]:
        """Number of samples and number of units."""
        ...

    def unit_sums(self, sample_labels: SampleLabels, n_modules: int) -> UnitSums:
        """Each unit's activation summed over each label's samples: ``[units, modules]``."""
        ...

    def sample_sums(self, unit_labels: UnitLabels, n_modules: int) -> SampleSums:
        """Each sample's activation summed over each label's units: ``[samples, modules]``."""
        ...

    def shift_unit_sums(
        self, sums: UnitSums, moved: Moved, before: SampleLabels, after: SampleLabels
    ) -> None:
        """Update ``unit_sums`` in place after samples moved.

        Args:
            sums: What ``unit_sums`` returned before the move.
            moved: The samples that moved, ascending.
            before: All samples' labels before the move.
            after: All samples' labels after the move.
        """
        ...

    def shift_sample_sums(
        self, sums: SampleSums, moved: Moved, before: UnitLabels, after: UnitLabels
    ) -> None:
        """Update ``sample_sums`` in place after units moved.

        Args:
            sums: What ``sample_sums`` returned before the move.
            moved: The units that moved, ascending.
            before: All units' labels before the move.
            after: All units' labels after the move.
        """
        ...

    def sum_of_squares(self) -> float:
        """The sum of all squared values."""
        ...

    def principal_components(
        self, n_components: int, seed: int
    ) -> Float[np.ndarray, "samples components"]:
        """Each sample's coordinates on the first principal components."""
        ...

    def some_units(self) -> Float[np.ndarray, "samples some"]:
        """The columns of ``sampled_units``, as an array in memory."""
        ...


class InMemory:
    """A normalised matrix in memory, as one array."""

    def __init__(self, matrix: Shaped[np.ndarray, "..."], *, parallel: bool = True) -> None:
        """Wrap an array; contiguous float32 and float64 arrays are not copied.

        Args:
            matrix: Normalised activations, shape ``[samples, units]``.
            parallel: Whether each sum may use all cores. Sums are the same either way, bit for
                bit.

        Raises:
            ModulesError: If the array does not hold numbers, or does not have two axes.
        """
        matrix = np.asarray(matrix)
        if matrix.dtype.kind not in "fiub":
            raise ModulesError(
                f"matrix should hold numbers; got {matrix.dtype}. Convert it with "
                "matrix.astype(float)."
            )
        if matrix.ndim != 2:
            raise ModulesError(
                f"matrix should have 2 axes, samples x units; got shape {matrix.shape}. Reshape it."
            )
        dtype = np.float64 if matrix.dtype == np.float64 else np.float32
        self.matrix: _Tile = np.ascontiguousarray(matrix, dtype=dtype)
        start_threads()
        self._kernels = _kernel.PARALLEL if parallel else _kernel.SERIAL

    @property
    def shape(self) -> tuple[int, int]:
        """Number of samples and number of units."""
        n_samples, n_units = self.matrix.shape
        return n_samples, n_units

    def unit_sums(self, sample_labels: SampleLabels, n_modules: int) -> UnitSums:
        """See ``Products``.

        Raises:
            ModulesError: If a value of the matrix is not finite.
        """
        sums = self._kernels.unit_sums(self.matrix, sample_labels, n_modules)
        self.check_finite(sums)
        return sums

    def sample_sums(self, unit_labels: UnitLabels, n_modules: int) -> SampleSums:
        """See ``Products``."""
        return self._kernels.sample_sums(self.matrix, unit_labels, n_modules)

    def shift_unit_sums(
        self, sums: UnitSums, moved: Moved, before: SampleLabels, after: SampleLabels
    ) -> None:
        """See ``Products``."""
        self._kernels.shift_unit_sums(sums, self.matrix, moved, before, after)

    def shift_sample_sums(
        self, sums: SampleSums, moved: Moved, before: UnitLabels, after: UnitLabels
    ) -> None:
        """See ``Products``."""
        self._kernels.shift_sample_sums(sums, self.matrix, moved, before, after)

    def sum_of_squares(self) -> float:
        """See ``Products``."""
        # Row by row: NumPy would otherwise copy the matrix as float64.
        return float(sum(np.square(row, dtype=np.float64).sum() for row in self.matrix))

    def principal_components(
        self, n_components: int, seed: int
    ) -> Float[np.ndarray, "samples components"]:
        """See ``Products``; block Krylov iteration. Call it inside ``one_thread``."""
        n_samples, n_units = self.shape
        means = self.unit_sums(np.zeros(n_samples, dtype=np.int64), 1)[:, 0] / n_samples
        largest = max(-float(self.matrix.min()), float(self.matrix.max()))
        # Clusters do not depend on the scale, so values whose squares would overflow are scaled
        # down.
        scale = 1.0 / largest if largest > _LARGEST_TO_SQUARE else 1.0
        narrow = means.astype(self.matrix.dtype)
        gram, few = partial(gram_times, self.matrix, narrow, scale), None
        some = sampled_units(n_units)
        if len(some) < n_units:
            few = partial(gram_times, self.matrix[:, some], narrow[some], scale)
        return leading_components(gram, few, n_samples, n_components, seed)

    def some_units(self) -> Float[np.ndarray, "samples some"]:
        """See ``Products``."""
        return self.matrix[:, sampled_units(self.shape[1])]

    def check_finite(self, sums: Float[np.ndarray, "..."]) -> None:
        """Refuse a matrix with a value that is not finite.

        Args:
            sums: Sums over all of the matrix; a value that is not finite makes a sum that is not.

        Raises:
            ModulesError: If a value is not finite, or the values are too large to sum.
        """
        if np.isfinite(sums).all():
            return
        bad = np.argwhere(~np.isfinite(self.matrix))
        if len(bad):
            sample, unit = bad[0]
            raise ModulesError(
                f"matrix should be finite; sample {sample}, unit {unit} is "
                f"{self.matrix[sample, unit]}. Drop that sample or that unit."
            )
        raise ModulesError(
            "matrix should hold values that can be summed; its largest magnitude is "
            f"{np.abs(self.matrix).max():.3g}. Normalise it first, as ActivationMatrix.zscore() "
            "does."
        )


def sampled_units(n_units: int) -> UnitLabels:
    """Units spread evenly over all, at least ``N_SOME``, but fewer than twice as many; or all."""
    units = np.arange(n_units)
    return units[units // _RUN % max(1, n_units // N_SOME) == 0]


def pca(matrix: _Tile, n_components: int, seed: int) -> Float[np.ndarray, "rows components"]:
    """Each row's coordinates on the first principal components, by scikit-learn.

    Args:
        matrix: Finite values.
        n_components: Number of components.
        seed: Seed of the randomised solver, which scikit-learn uses for large matrices.

    Returns:
        The coordinates.
    """
    from sklearn.decomposition import PCA  # slow to import, and only a fit needs it

    # A constant matrix has explained-variance shares of 0 / 0, which are not used.
    with np.errstate(invalid="ignore"):
        return np.asarray(PCA(n_components, random_state=seed).fit_transform(matrix))


def in_memory_bytes(
    shape: tuple[int, int], n_modules: int, n_jobs: int, *, n_copies: int = 1
) -> int:
    """Estimate the bytes that a search takes beside the activations.

    Args:
        shape: Number of samples and number of units.
        n_modules: K.
        n_jobs: Number of starts that run at once.
        n_copies: How often the matrix is copied: to normalise it, and to set units aside.
    """
    n_samples, n_units = shape
    # Copies of some units: for the start, and for its principal components. Each start has four
    # arrays of sums.
    matrix, some = 4 * n_samples * n_units, 4 * n_samples * min(n_units, 2 * N_SOME)
    sums = n_jobs * 4 * 8 * n_modules * (n_samples + n_units)
    return (1 + 4 * n_copies) * matrix // 4 + 2 * some + sums
