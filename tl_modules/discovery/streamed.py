"""A store as IterD sees it: streamed, its columns shared among ranks if there are several."""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from tl_modules.activations.normalise import ZScore
from tl_modules.activations.store import ActivationStore
from tl_modules.discovery import _stream
from tl_modules.discovery.products import (
    Moved,
    SampleLabels,
    SampleSums,
    UnitLabels,
    UnitSums,
)
from tl_modules.discovery.start import N_COMPONENTS
from tl_modules.runtime.determinism import one_thread
from tl_modules.runtime.processes import ALONE, Ranks

_Lane = Float[np.ndarray, "rows lane"]

N_LANES = 16
"""Columns are added up in so many lanes and the lanes' sums in pairs, whichever threads and ranks
have them: no sum depends on who shared in it, to the last bit."""

_OVERSAMPLING = 10
_POWER_ITERATIONS = 4
_TILE_BYTES = 64 * 1024**2
_MANY_MOVED = 8
"""Above one unit in so many moved, a store's columns are summed anew: it reads the same pages."""


class Streamed:
    """A store's raw activations, z-scored while they are read; the matrix is never in memory.

    Of several ranks, rank 0 calls what ``Products`` lists, and the others ``serve``: each does a
    step's part over columns of its own.
    """

    def __init__(self, store: ActivationStore, scaler: ZScore, ranks: Ranks = ALONE) -> None:
        """Prepare to stream.

        Args:
            store: The raw activations.
            scaler: Each unit's mean and standard deviation.
            ranks: Who share the columns: at most 16, and the largest power of two of them.
        """
        self._store = store
        self._ranks = ranks
        self._normal = (
            store.half.shift,
            store.half.scale,
            scaler.mean.astype(np.float32),
            (1.0 / scaler.std).astype(np.float32),
        )
        self._shares = _shares(store.shape[1], ranks.world)
        self._bounds = self._shares[ranks.rank]
        self.in_step = False
        """Whether the ranks are in the middle of a step, where one that stops leaves the others."""
        # Each chunk's first row, and the number of rows.
        self._starts = np.cumsum([0, *(chunk.n_rows for chunk in store.chunks)])
        self._steps = (
            self._unit_sums,
            self._sample_sums,
            self._shift_unit_sums,
            self._sample_changes,
            self._principal_components,
        )

    @property
    def shape(self) -> tuple[int, int]:
        """Samples and units."""
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
        if len(moved) * _MANY_MOVED > len(after):
            sums[:] = self.sample_sums(after, n_modules)
        elif len(moved):
            sums += self._together(self._sample_changes, moved, before, after, n_modules)

    def principal_components(
        self, n_components: int, seed: int
    ) -> Float[np.ndarray, "samples components"]:
        """By randomised subspace iteration (Halko, Martinsson & Tropp 2011, algorithm 4.4).

        One pass over the matrix Z makes ``Z.T @ (Z @ V)``; a z-scored matrix needs no centring.
        """
        return self._together(self._principal_components, n_components, seed)

    def serve(self) -> None:
        """Take each step that rank 0 takes, until it stops."""
        while (header := self._ranks.spread())[0] >= 0:
            number, n_arguments = header.tolist()
            arguments = [self._ranks.spread() for _ in range(n_arguments)]
            self._steps[number](*(one if one.ndim else int(one) for one in arguments))

    def stop(self) -> None:
        """Let the others go."""
        if self._ranks.world > 1:
            self._ranks.spread(np.array([-1, 0]))

    def _together(self, step: Any, *arguments: Any, **own: Any) -> Any:
        """Take a step on every rank; ``own`` is for rank 0 alone."""
        if self._ranks.world > 1:
            self._ranks.spread(np.array([self._steps.index(step), len(arguments)]))
            for argument in arguments:
                self._ranks.spread(np.asarray(argument))
        self.in_step = True
        found = step(*arguments, **own)
        self.in_step = False
        return found

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
        own = self._ranks.scatter(parts)  # of rank 0, a part of its sums
        self._add_rows(own, moved, ((before, -1.0), (after, 1.0)))
        for part, found in zip(parts[1:], self._ranks.gather(own)[1:], strict=True):
            part[:] = found

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
        # A thread a lane, each with a BLAS of its own.
        with one_thread(), ThreadPoolExecutor(os.cpu_count()) as pool:
            for _ in range(_POWER_ITERATIONS):
                image = np.zeros((stop - first, width), dtype=np.float32)
                parts = [image[slice(*lane)] for lane in pairwise(self._bounds - first)]
                for _, tile, projected in self._projected(pool, basis):
                    list(pool.map(partial(_add_product, projected), parts, tile))
                whole = self._side_by_side(image)
                basis = self._ranks.spread(None if whole is None else np.linalg.qr(whole)[0])
            points = np.empty((n_samples, width))
            for start, _, projected in self._projected(pool, basis):
                points[start : start + len(projected)] = projected
            left, sizes, _ = np.linalg.svd(points, full_matrices=False)
        return (left * sizes)[:, :n_components]

    def _projected(
        self, pool: ThreadPoolExecutor, basis: Float[np.ndarray, "units width"]
    ) -> Iterator[tuple[int, list[_Lane], Float[np.ndarray, "rows width"]]]:
        """Some rows at a time: the first one's number, their lanes, and the rows times the basis.

        The lanes' memory is used again.
        """
        n_rows = max(1, _TILE_BYTES // (4 * self.shape[1]))
        lanes = list(pairwise(self._bounds.tolist()))
        buffers = [np.empty((n_rows, stop - start), dtype=np.float32) for start, stop in lanes]
        for start, chunk in self._store.iter_chunks(self._columns):
            for first in range(0, len(chunk), n_rows):
                rows = chunk[first : first + n_rows]
                tile = [buffer[: len(rows)] for buffer in buffers]

                def project(
                    lane: tuple[int, int], own: _Lane, rows: np.ndarray = rows
                ) -> Float[np.ndarray, "rows width"]:
                    _stream.decode_columns(rows, self._normal, lane[0], own)
                    return own @ basis[slice(*lane)]

                parts = list(pool.map(project, lanes, tile))
                none = np.zeros((len(rows), basis.shape[1]), dtype=np.float32)
                total = self._added(_in_pairs(parts) if parts else none)
                yield start + first, tile, self._ranks.spread(total)

    @property
    def _columns(self) -> tuple[int, int] | None:
        """This rank's first column, and where they end; None if it has all."""
        return None if self._ranks.world == 1 else (int(self._bounds[0]), int(self._bounds[-1]))

    def _side_by_side(self, own: np.ndarray) -> np.ndarray | None:
        """The ranks' columns, on rank 0."""
        parts = self._ranks.gather(own)
        return (parts[0] if len(parts) == 1 else np.concatenate(parts)) if parts else None

    def _added(self, own: np.ndarray) -> np.ndarray | None:
        """The sum of the ranks' parts, on rank 0."""
        parts = self._ranks.gather(own)
        return _in_pairs(parts[: _n_sharing(len(parts))]) if parts else None

    def _add_rows(
        self, sums: UnitSums, rows: Moved, terms: tuple[tuple[SampleLabels, float], ...]
    ) -> None:
        """Add rows, given in ascending order, to the columns of their labels."""
        stops = np.searchsorted(rows, self._starts)
        first, stop = int(self._bounds[0]), int(self._bounds[-1])
        for number, (begin, end) in enumerate(pairwise(stops)):
            if begin == end:
                continue
            chosen = rows[begin:end]
            start, chunk = self._starts[number], self._store.read_chunk(number)
            self._store.bytes_read += chunk[0, first:stop].nbytes * len(chosen)
            for labels, sign in terms:
                of = labels[chosen]
                _stream.add_rows(sums, chunk, self._normal, first, chosen - start, of, sign)


def streamed_bytes(shape: tuple[int, int], n_modules: int) -> int:
    """About what a search over a store takes: sums by label, bases, and rows that pass by.

    Args:
        shape: Samples and units.
        n_modules: K.
    """
    n_samples, n_units = shape
    width = N_COMPONENTS + _OVERSAMPLING
    sums = 4 * 8 * n_modules * (n_samples + n_units)
    return sums + 5 * 4 * width * n_units + 8 * 8 * n_units + 2 * _TILE_BYTES


def _add_product(
    projected: Float[np.ndarray, "rows width"], image: Float[np.ndarray, "lane width"], lane: _Lane
) -> None:
    """Add a lane's columns times the projected rows to the lane's part of the image."""
    image += lane.T @ projected


def _n_sharing(world: int) -> int:
    """How many of so many ranks get lanes: a power of two, so that lanes pair up inside ranks."""
    return 1 << (min(world, N_LANES).bit_length() - 1)


def _shares(n_units: int, world: int) -> list[Int[np.ndarray, " bounds"]]:
    """Where each rank's lanes begin and, last, end; the ranks beyond a power of two have none."""
    bounds = np.linspace(0, n_units, N_LANES + 1).astype(np.int64)
    n_sharing = _n_sharing(world)
    step = N_LANES // n_sharing
    shares = [bounds[step * rank : step * (rank + 1) + 1] for rank in range(n_sharing)]
    return shares + [bounds[-1:]] * (world - n_sharing)


def _in_pairs(parts: list[np.ndarray]) -> np.ndarray:
    """The sum of a power of two of arrays, as a tree."""
    while len(parts) > 1:
        parts = [one + other for one, other in zip(parts[::2], parts[1::2], strict=True)]
    return parts[0]
