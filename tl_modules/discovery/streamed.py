"""The sums that IterD needs, streamed from a store; several processes may share its columns."""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
from jaxtyping import Float

from tl_modules.activations.normalise import ZScore
from tl_modules.activations.store import ActivationStore
from tl_modules.discovery import _stream
from tl_modules.discovery.lanes import lane_bounds, n_with_lanes, sum_in_pairs
from tl_modules.discovery.products import (
    N_SOME,
    Moved,
    SampleLabels,
    SampleSums,
    UnitLabels,
    UnitSums,
    sampled_units,
)
from tl_modules.discovery.start import N_COMPONENTS
from tl_modules.runtime.compiled_threads import start_threads
from tl_modules.runtime.determinism import one_thread
from tl_modules.runtime.processes import ALONE, Processes

_Lane = Float[np.ndarray, "rows lane"]


_OVERSAMPLING = 10
_POWER_ITERATIONS = 4
_TILE_BYTES = 64 * 1024**2
_MANY_MOVED = 8
"""If more than one unit in eight moved, a store's columns are summed again: reading the moved
columns would read the same pages of the disk."""


class Streamed:
    """A store's raw activations, z-scored while they are read; the matrix is never in memory.

    If there are several processes, the first calls the methods of ``Products`` and the others call
    ``serve``. Each process then does its part of every step, over its own columns.
    """

    def __init__(
        self, store: ActivationStore, scaler: ZScore, processes: Processes = ALONE
    ) -> None:
        """Prepare to stream.

        Args:
            store: The raw activations.
            scaler: Each unit's mean and standard deviation.
            processes: The processes that share the columns. The largest power of two of them gets
                columns, at most 16.
        """
        start_threads()
        self._store = store
        self._processes = processes
        self._normal = (
            store.half.shift,
            store.half.scale,
            scaler.mean.astype(np.float32),
            (1.0 / scaler.std).astype(np.float32),
        )
        self._shares = lane_bounds(store.shape[1], processes.world_size)
        self._bounds = self._shares[processes.rank]
        self.in_step = False
        """Whether a step is running. A process that fails inside a step cannot tell the others."""
        # Each chunk's first row, and last the number of rows.
        self._starts = np.cumsum([0, *(chunk.n_rows for chunk in store.chunks)])
        self._steps = (
            self._unit_sums,
            self._sample_sums,
            self._shift_unit_sums,
            self._sample_changes,
            self._principal_components,
            self._some_units,
        )

    @property
    def shape(self) -> tuple[int, int]:
        """Number of samples and number of units."""
        return self._store.shape

    def unit_sums(self, sample_labels: SampleLabels, n_modules: int) -> UnitSums:
        """See ``Products``."""
        return self._together(self._unit_sums, sample_labels, n_modules)

    def sample_sums(self, unit_labels: UnitLabels, n_modules: int) -> SampleSums:
        """See ``Products``."""
        return self._together(self._sample_sums, unit_labels, n_modules)

    def shift_unit_sums(
        self, sums: UnitSums, moved: Moved, before: SampleLabels, after: SampleLabels
    ) -> None:
        """See ``Products``."""
        self._together(self._shift_unit_sums, moved, before, after, sums=sums)

    def shift_sample_sums(
        self, sums: SampleSums, moved: Moved, before: UnitLabels, after: UnitLabels
    ) -> None:
        """See ``Products``."""
        n_modules = sums.shape[1]
        # Both ways sum in lanes, but they round differently. The choice depends on the labels
        # alone, so one process and several choose the same.
        if len(moved) * _MANY_MOVED > len(after):
            sums[:] = self.sample_sums(after, n_modules)
        elif len(moved):
            sums += self._together(self._sample_changes, moved, before, after, n_modules)

    def sum_of_squares(self) -> float:
        """See ``Products``; (samples - 1) for each z-scored unit.

        A constant unit's squares add up to 0, not samples - 1, which makes no difference to a
        variance over all units unless many units are constant.
        """
        return float((self.shape[0] - 1) * self.shape[1])

    def principal_components(
        self, n_components: int, seed: int
    ) -> Float[np.ndarray, "samples components"]:
        """See ``Products``.

        The method is randomised subspace iteration (Halko, Martinsson & Tropp 2011, algorithm
        4.4). One pass over the matrix Z computes ``Z.T @ (Z @ V)``. Z is z-scored, so it needs no
        centring.
        """
        return self._together(self._principal_components, n_components, seed)

    def some_units(self) -> Float[np.ndarray, "samples some"]:
        """See ``Products``; one pass over the store."""
        return self._together(self._some_units)

    def serve(self) -> None:
        """Do this process's part of each step of the first process, until the first one stops."""
        while (header := self._processes.broadcast())[0] >= 0:
            number, n_arguments = header.tolist()
            arguments = [self._processes.broadcast() for _ in range(n_arguments)]
            # Whole numbers arrive as arrays without axes.
            self._steps[number](*(part if part.ndim else int(part) for part in arguments))

    def stop(self) -> None:
        """End ``serve`` on the other processes."""
        if self._processes.world_size > 1:
            self._processes.broadcast(np.array([-1, 0]))

    def _together(self, step: Any, *arguments: Any, **local: Any) -> Any:
        """Run a step on every process.

        Args:
            step: One of ``self._steps``.
            arguments: Arrays and whole numbers, which are sent to the other processes.
            local: Arguments for the first process only.

        Returns:
            What the step returns on the first process.
        """
        if self._processes.world_size > 1:
            self._processes.broadcast(np.array([self._steps.index(step), len(arguments)]))
            for argument in arguments:
                self._processes.broadcast(np.asarray(argument))
        self.in_step = True
        result = step(*arguments, **local)
        self.in_step = False  # not in a finally: an error inside a step has to leave it True
        return result

    def _unit_sums(self, sample_labels: SampleLabels, n_modules: int) -> UnitSums | None:
        sums = np.zeros((self._bounds[-1] - self._bounds[0], n_modules))
        self._add_rows(sums, np.arange(self.shape[0]), ((sample_labels, 1.0),))
        return self._side_by_side(sums)

    def _shift_unit_sums(
        self,
        moved: Moved,
        before: SampleLabels,
        after: SampleLabels,
        sums: UnitSums | None = None,
    ) -> None:
        parts = [] if sums is None else [sums[share[0] : share[-1]] for share in self._shares]
        # On the first process this is a view of ``sums``, which is then changed in place.
        share = self._processes.scatter(parts)
        self._add_rows(share, moved, ((before, -1.0), (after, 1.0)))
        for part, changed in zip(parts[1:], self._processes.gather(share)[1:], strict=True):
            part[:] = changed

    def _sample_sums(self, unit_labels: UnitLabels, n_modules: int) -> SampleSums | None:
        sums = np.zeros((self.shape[0], n_modules))
        for start, chunk in self._store.iter_chunks(self._columns):
            part = sums[start : start + len(chunk)]
            _stream.sum_columns(part, chunk, self._normal, self._bounds, unit_labels)
        return self._added(sums)

    def _sample_changes(
        self, moved: Moved, before: UnitLabels, after: UnitLabels, n_modules: int
    ) -> SampleSums | None:
        changes = np.zeros((self.shape[0], n_modules))
        stops = np.searchsorted(moved, self._bounds)
        for start, chunk in self._store.iter_chunks(self._columns):
            part = changes[start : start + len(chunk)]
            _stream.change_columns(part, chunk, self._normal, stops, moved, before, after)
        return self._added(changes)

    def _principal_components(
        self, n_components: int, seed: int
    ) -> Float[np.ndarray, "samples components"] | None:
        n_samples, n_units = self.shape
        width = min(n_components + _OVERSAMPLING, n_samples, n_units)
        generator = np.random.default_rng(seed)
        basis = generator.normal(size=(n_units, width)).astype(np.float32)
        first, stop = int(self._bounds[0]), int(self._bounds[-1])
        # One thread per lane, and one BLAS thread in each, so that no product is split differently
        # on a machine of more cores.
        with one_thread(), ThreadPoolExecutor(os.cpu_count()) as pool:
            for _ in range(_POWER_ITERATIONS):
                image = np.zeros((stop - first, width), dtype=np.float32)
                parts = [image[slice(*lane)] for lane in pairwise(self._bounds - first)]
                for _, tile, projected in self._projected(pool, basis):
                    list(pool.map(partial(_add_product, projected), parts, tile))
                whole = self._side_by_side(image)
                basis = self._processes.broadcast(None if whole is None else np.linalg.qr(whole)[0])
            points = np.empty((n_samples, width))
            for start, _, projected in self._projected(pool, basis):
                points[start : start + len(projected)] = projected
            left, sizes, _ = np.linalg.svd(points, full_matrices=False)
        return (left * sizes)[:, :n_components]

    def _some_units(self) -> Float[np.ndarray, "samples some"] | None:
        units = sampled_units(self.shape[1])
        units = units[(units >= self._bounds[0]) & (units < self._bounds[-1])]
        shift, scale, mean, inverse = self._normal
        normal = (shift, scale, mean[units], inverse[units])
        share = np.empty((self.shape[0], len(units)), dtype=np.float32)
        for start, chunk in self._store.iter_chunks(self._columns):
            part = share[start : start + len(chunk)]
            _stream.decode_columns(np.ascontiguousarray(chunk[:, units]), normal, 0, part)
        whole = self._side_by_side(share.T)
        return None if whole is None else np.ascontiguousarray(whole.T)

    def _projected(
        self, pool: ThreadPoolExecutor, basis: Float[np.ndarray, "units width"]
    ) -> Iterator[tuple[int, list[_Lane], Float[np.ndarray, "rows width"]]]:
        """Read the store some rows at a time, z-score them, and multiply them by the basis.

        Yields:
            The first row's number, the rows of each lane, and the product. The lanes' arrays are
            reused: use them before taking the next rows.
        """
        n_rows = max(1, _TILE_BYTES // (4 * self.shape[1]))
        lanes = list(pairwise(self._bounds.tolist()))
        buffers = [np.empty((n_rows, stop - start), dtype=np.float32) for start, stop in lanes]
        for start, chunk in self._store.iter_chunks(self._columns):
            for first in range(0, len(chunk), n_rows):
                rows = chunk[first : first + n_rows]
                tile = [buffer[: len(rows)] for buffer in buffers]

                def project(
                    lane: tuple[int, int], decoded: _Lane, rows: np.ndarray = rows
                ) -> Float[np.ndarray, "rows width"]:
                    _stream.decode_columns(rows, self._normal, lane[0], decoded)
                    return decoded @ basis[slice(*lane)]

                parts = list(pool.map(project, lanes, tile))
                # A process beyond the power of two has no lanes, but takes part in each exchange.
                zeros = np.zeros((len(rows), basis.shape[1]), dtype=np.float32)
                total = self._added(sum_in_pairs(parts) if parts else zeros)
                yield start + first, tile, self._processes.broadcast(total)

    @property
    def _columns(self) -> tuple[int, int] | None:
        """This process's first column and the one after its last; None if it has all columns."""
        return (
            None
            if self._processes.world_size == 1
            else (int(self._bounds[0]), int(self._bounds[-1]))
        )

    def _side_by_side(self, share: np.ndarray) -> np.ndarray | None:
        """The columns of all processes, on the first process; None elsewhere."""
        parts = self._processes.gather(share)
        return (parts[0] if len(parts) == 1 else np.concatenate(parts)) if parts else None

    def _added(self, share: np.ndarray) -> np.ndarray | None:
        """The sum of the parts of all processes, on the first process; None elsewhere."""
        parts = self._processes.gather(share)
        return sum_in_pairs(parts[: n_with_lanes(len(parts))]) if parts else None

    def _add_rows(
        self, sums: UnitSums, rows: Moved, terms: tuple[tuple[SampleLabels, float], ...]
    ) -> None:
        """Add rows to the columns of their labels.

        Args:
            sums: Changed in place.
            rows: Row numbers, ascending.
            terms: Labels of all rows, each with the sign with which rows are added.
        """
        stops = np.searchsorted(rows, self._starts)
        first, stop = int(self._bounds[0]), int(self._bounds[-1])
        for number, (begin, end) in enumerate(pairwise(stops)):
            if begin == end:
                continue
            in_chunk = rows[begin:end]
            start, chunk = self._starts[number], self._store.read_chunk(number)
            self._store.bytes_read += chunk[0, first:stop].nbytes * len(in_chunk)
            for labels, sign in terms:
                _stream.add_rows(
                    sums, chunk, self._normal, first, in_chunk - start, labels[in_chunk], sign
                )


def streamed_bytes(shape: tuple[int, int], n_modules: int, *, components: bool) -> int:
    """Estimate the bytes that a search over a store takes: sums, and what it clusters samples by.

    Args:
        shape: Number of samples and number of units.
        n_modules: K.
        components: Whether samples are clustered by the principal components of all units, as
            topics are, which takes bases and the rows being read; or by some of the units.
    """
    n_samples, n_units = shape
    one, few = 8 * n_modules * (n_samples + n_units), 8 * 8 * n_units
    if not components:
        # Four arrays of sums, and one of new sums while they are read.
        return 5 * one + few + 2 * 4 * n_samples * min(n_units, 2 * N_SOME)
    width = max(N_COMPONENTS, n_modules) + _OVERSAMPLING
    return 4 * one + few + 5 * 4 * width * n_units + 2 * _TILE_BYTES


def _add_product(
    projected: Float[np.ndarray, "rows width"], image: Float[np.ndarray, "lane width"], lane: _Lane
) -> None:
    """Add the product of a lane and the projected rows to the lane's part of the image."""
    image += lane.T @ projected
