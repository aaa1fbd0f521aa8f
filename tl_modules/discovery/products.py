"""The matrix as IterD sees it: sums over labels, from an array or streamed from a store."""

from collections.abc import Iterator
from itertools import pairwise
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Int, Shaped

from tl_modules.activations import _half
from tl_modules.activations.store import ActivationStore
from tl_modules.discovery import _kernel, _stream
from tl_modules.errors import ModulesError
from tl_modules.normalise import ZScore

_SampleLabels = Int[np.ndarray, " samples"]
_UnitLabels = Int[np.ndarray, " units"]
_Moved = Int[np.ndarray, " moved"]
_SampleSums = Float[np.ndarray, "samples modules"]
_UnitSums = Float[np.ndarray, "units modules"]
_Tile = Float[np.ndarray, "rows units"]

_OVERSAMPLING = 10
_POWER_ITERATIONS = 4
_TILE_BYTES = 64 * 1024**2
_MANY_MOVED = 8
"""Above one unit in so many moved, a store's columns are summed anew: it reads the same pages."""


@runtime_checkable
class Products(Protocol):
    """What IterD needs of a normalised matrix: sums of its rows or columns by label, in float64."""

    @property
    def shape(self) -> tuple[int, int]:
        """Samples and units."""
        ...

    def unit_sums(self, sample_labels: _SampleLabels, n_modules: int) -> _UnitSums:
        """Each unit's activation summed over each label's samples: ``[units, modules]``."""
        ...

    def sample_sums(self, unit_labels: _UnitLabels, n_modules: int) -> _SampleSums:
        """Each sample's activation summed over each label's units: ``[samples, modules]``."""
        ...

    def shift_unit_sums(
        self, sums: _UnitSums, moved: _Moved, before: _SampleLabels, after: _SampleLabels
    ) -> None:
        """Bring ``unit_sums`` up to date, in place, after samples moved."""
        ...

    def shift_sample_sums(
        self, sums: _SampleSums, moved: _Moved, before: _UnitLabels, after: _UnitLabels
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

    def unit_sums(self, sample_labels: _SampleLabels, n_modules: int) -> _UnitSums:
        """See ``Products``; refuses a matrix with a value that is not finite."""
        sums = self._kernels.unit_sums(self.matrix, sample_labels, n_modules)
        self._check_finite(sums)
        return sums

    def sample_sums(self, unit_labels: _UnitLabels, n_modules: int) -> _SampleSums:
        """See ``Products``."""
        return self._kernels.sample_sums(self.matrix, unit_labels, n_modules)

    def shift_unit_sums(
        self, sums: _UnitSums, moved: _Moved, before: _SampleLabels, after: _SampleLabels
    ) -> None:
        """See ``Products``."""
        self._kernels.shift_unit_sums(sums, self.matrix, moved, before, after)

    def shift_sample_sums(
        self, sums: _SampleSums, moved: _Moved, before: _UnitLabels, after: _UnitLabels
    ) -> None:
        """See ``Products``."""
        self._kernels.shift_sample_sums(sums, self.matrix, moved, before, after)

    def principal_components(
        self, n_components: int, seed: int
    ) -> Float[np.ndarray, "samples components"]:
        """By scikit-learn's PCA."""
        with np.errstate(over="ignore", invalid="ignore"):  # what the sums are looked at for
            self._check_finite(self.matrix.sum(axis=1, dtype=np.float64))
        return pca(self.matrix, n_components, seed)

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


class Streamed:
    """A store's raw activations, z-scored while they are read; the matrix is never in memory."""

    def __init__(self, store: ActivationStore, scaler: ZScore) -> None:
        """Prepare to stream.

        Args:
            store: The raw activations.
            scaler: Each unit's mean and standard deviation.
        """
        self._store = store
        self._normal = (
            store.half.shift,
            store.half.scale,
            scaler.mean.astype(np.float32),
            (1.0 / scaler.std).astype(np.float32),
        )
        # Each chunk's first row, and the number of rows.
        self._starts = np.cumsum([0, *(chunk.n_rows for chunk in store.chunks)])

    @property
    def shape(self) -> tuple[int, int]:
        """Samples and units."""
        return self._store.shape

    def unit_sums(self, sample_labels: _SampleLabels, n_modules: int) -> _UnitSums:
        """See ``Products``."""
        sums = np.zeros((self.shape[1], n_modules))
        self._add_rows(sums, np.arange(self.shape[0]), ((sample_labels, 1.0),))
        return sums

    def sample_sums(self, unit_labels: _UnitLabels, n_modules: int) -> _SampleSums:
        """See ``Products``."""
        sums = np.empty((self.shape[0], n_modules))
        for start, chunk in self._store.iter_chunks():
            part = sums[start : start + len(chunk)]
            _stream.sum_columns(part, chunk, self._normal, unit_labels)
        return sums

    def shift_unit_sums(
        self, sums: _UnitSums, moved: _Moved, before: _SampleLabels, after: _SampleLabels
    ) -> None:
        """See ``Products``."""
        self._add_rows(sums, moved, ((before, -1.0), (after, 1.0)))

    def shift_sample_sums(
        self, sums: _SampleSums, moved: _Moved, before: _UnitLabels, after: _UnitLabels
    ) -> None:
        """See ``Products``."""
        if len(moved) * _MANY_MOVED > len(after):
            sums[:] = self.sample_sums(after, sums.shape[1])
        elif len(moved):
            for start, chunk in self._store.iter_chunks():
                part = sums[start : start + len(chunk)]
                _stream.shift_columns(part, chunk, self._normal, moved, before, after)

    def principal_components(
        self, n_components: int, seed: int
    ) -> Float[np.ndarray, "samples components"]:
        """By randomised subspace iteration (Halko, Martinsson & Tropp 2011, algorithm 4.4).

        One pass over the matrix Z makes ``Z.T @ (Z @ V)``; a z-scored matrix needs no centring.
        """
        n_samples, n_units = self.shape
        width = min(n_components + _OVERSAMPLING, n_samples, n_units)
        generator = np.random.default_rng(seed)
        basis = generator.normal(size=(n_units, width)).astype(np.float32)
        for _ in range(_POWER_ITERATIONS):
            image = np.zeros((n_units, width), dtype=np.float32)
            for _, tile in self._tiles():
                image += tile.T @ (tile @ basis)
            basis = np.linalg.qr(image)[0]
        projected = np.empty((n_samples, width))
        for start, tile in self._tiles():
            projected[start : start + len(tile)] = tile @ basis
        left, sizes, _ = np.linalg.svd(projected, full_matrices=False)
        return (left * sizes)[:, :n_components]

    def _add_rows(
        self, sums: _UnitSums, rows: _Moved, terms: tuple[tuple[_SampleLabels, float], ...]
    ) -> None:
        """Add rows, given in ascending order, to the columns of their labels."""
        stops = np.searchsorted(rows, self._starts)
        for number, (begin, end) in enumerate(pairwise(stops)):
            if begin == end:
                continue
            chosen = rows[begin:end]
            start, chunk = self._starts[number], self._store.read_chunk(number)
            self._store.bytes_read += chunk[0].nbytes * len(chosen)
            for labels, sign in terms:
                _stream.add_rows(sums, chunk, self._normal, chosen - start, labels[chosen], sign)

    def _tiles(self) -> Iterator[tuple[int, _Tile]]:
        """Z-scored rows in one buffer that is used again, and the first one's number."""
        n_rows = max(1, _TILE_BYTES // (4 * self.shape[1]))
        buffer = np.empty((n_rows, self.shape[1]), dtype=np.float32)
        for start, chunk in self._store.iter_chunks():
            for first in range(0, len(chunk), n_rows):
                rows = chunk[first : first + n_rows]
                _half.decode_rows(rows, self._normal, buffer[: len(rows)])
                yield start + first, buffer[: len(rows)]
