"""The matrix as IterD sees it: sums over labels."""

from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Int, Shaped

from tl_modules.discovery import _kernel
from tl_modules.errors import ModulesError

SampleLabels = Int[np.ndarray, " samples"]
UnitLabels = Int[np.ndarray, " units"]
Moved = Int[np.ndarray, " moved"]
SampleSums = Float[np.ndarray, "samples modules"]
UnitSums = Float[np.ndarray, "units modules"]
_Tile = Float[np.ndarray, "rows units"]

_MOST_TO_SQUARE = 1e15


@runtime_checkable
class Products(Protocol):
    """What IterD needs of a normalised matrix: sums of its rows or columns by label, in float64."""

    @property
    def shape(self) -> tuple[int, int]:
        """Samples and units."""
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
        """Bring ``unit_sums`` up to date, in place, after samples moved."""
        ...

    def shift_sample_sums(
        self, sums: SampleSums, moved: Moved, before: UnitLabels, after: UnitLabels
    ) -> None:
        """Bring ``sample_sums`` up to date, in place, after units moved."""
        ...

    def principal_components(
        self, n_components: int, seed: int
    ) -> Float[np.ndarray, "samples components"]:
        """Each sample's coordinates on the first principal components."""
        ...


class InMemory:
    """A normalised matrix held as one array."""

    def __init__(self, matrix: Shaped[np.ndarray, "..."], *, parallel: bool = True) -> None:
        """Take an array; float32 and float64 are not copied if contiguous.

        Args:
            matrix: Normalised activations, shape ``[samples, units]``.
            parallel: Whether each sum may use all cores. The sums are the same either way, bit for
                bit.

        Raises:
            ModulesError: If it has not two axes.
        """
        matrix = np.asarray(matrix)
        if matrix.dtype.kind not in "fiub":
            raise ModulesError(f"matrix should hold numbers; its type is {matrix.dtype}.")
        if matrix.ndim != 2:
            raise ModulesError(f"matrix should have 2 axes, samples x units; got {matrix.shape}.")
        dtype = np.float64 if matrix.dtype == np.float64 else np.float32
        self.matrix: _Tile = np.ascontiguousarray(matrix, dtype=dtype)
        self._kernels = _kernel.PARALLEL if parallel else _kernel.SERIAL

    @property
    def shape(self) -> tuple[int, int]:
        """Samples and units."""
        n_samples, n_units = self.matrix.shape
        return n_samples, n_units

    def unit_sums(self, sample_labels: SampleLabels, n_modules: int) -> UnitSums:
        """See ``Products``; refuses a matrix with a value that is not finite."""
        sums = self._kernels.unit_sums(self.matrix, sample_labels, n_modules)
        self._check_finite(sums)
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

    def principal_components(
        self, n_components: int, seed: int
    ) -> Float[np.ndarray, "samples components"]:
        """By scikit-learn's PCA."""
        with np.errstate(over="ignore", invalid="ignore"):  # what the sums are looked at for
            self._check_finite(self.matrix.sum(axis=1, dtype=np.float64))
        largest = max(-float(self.matrix.min()), float(self.matrix.max()))
        # Squares of such values overflow; clusters are the same at any scale.
        matrix = self.matrix / largest if largest > _MOST_TO_SQUARE else self.matrix
        return pca(matrix, n_components, seed)

    def _check_finite(self, sums: Float[np.ndarray, "..."]) -> None:
        """Refuse a matrix with a value that is not finite, which shows in any sums over it."""
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
            f"matrix is too large to sum: its largest value is {np.abs(self.matrix).max():.3g}. "
            "Normalise it first, as ActivationMatrix.zscore() does."
        )


def pca(matrix: _Tile, n_components: int, seed: int) -> Float[np.ndarray, "rows components"]:
    """Each row's coordinates on the first principal components, by scikit-learn.

    Args:
        matrix: Finite values.
        n_components: How many.
        seed: Seeds the randomised solver, which scikit-learn uses for large matrices.

    Returns:
        The coordinates.
    """
    from sklearn.decomposition import PCA  # slow to import, and only a fit needs it

    with np.errstate(invalid="ignore"):  # shares of a variance of zero, which nobody reads
        return np.asarray(PCA(n_components, random_state=seed).fit_transform(matrix))


def in_memory_bytes(
    shape: tuple[int, int], n_modules: int, n_jobs: int, *, is_copied: bool = True
) -> int:
    """About what a search takes beside the activations: copies of the matrix, and sums by label.

    Args:
        shape: Samples and units.
        n_modules: K.
        n_jobs: Starts that run at once.
        is_copied: Whether the matrix is still to be normalised.
    """
    n_samples, n_units = shape
    matrix = 4 * n_samples * n_units  # z-scored, and once more as it is centred for the PCA
    return (5 + 4 * is_copied) * matrix // 4 + n_jobs * 4 * 8 * n_modules * (n_samples + n_units)
