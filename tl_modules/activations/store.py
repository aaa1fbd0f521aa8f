"""An activation matrix on disk, in chunks of samples: for matrices larger than memory."""

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from tl_modules.activations import _half
from tl_modules.activations.chunks import (
    Chunk,
    Halves,
    check_chunk,
    check_fits,
    read_chunk,
    write_chunk,
)
from tl_modules.activations.manifest import DTYPES, MANIFEST, Manifest, StoreDtype
from tl_modules.activations.matrix import ActivationMatrix, check_finite, checked_rows
from tl_modules.activations.normalise import MIN_STD, ZScore
from tl_modules.activations.reading import Reading
from tl_modules.errors import ModulesError, check_at_least, check_choice
from tl_modules.runtime.arguments import checked
from tl_modules.runtime.processes import ALONE, Ranks
from tl_modules.saving import files
from tl_modules.tables.html_tables import html_table
from tl_modules.tables.prompt_tables import sample_table
from tl_modules.units import Units, check_unit_means

_CHUNK_BYTES = 128 * 1024**2


class ActivationStore:
    """Raw activations in a folder of chunks, read as memory maps, never as a whole.

    ``discover`` takes a store in the place of an ``ActivationMatrix``: it streams over the chunks
    for the z-score, the principal components and the sums, and keeps only what has one number a
    unit and module. float16 has 11 significant bits and ends at 65,504; bfloat16 has 8 and reaches
    as far as float32; float32 keeps every value as it is, in twice the space.

    Example::

        with ActivationStore.create("acts", units) as writer:
            for values, samples in batches:
                writer.add(values, samples)
            writer.unit_means = means  # for mean ablation
        modules = tlm.discover(ActivationStore("acts"), n_modules=20)
    """

    def __init__(self, path: str | Path) -> None:
        """Open a store.

        Args:
            path: The folder.

        Raises:
            ModulesError: If there is no whole store there: its list of chunks is missing or
                altered, or a chunk is missing or has another size than listed.
        """
        self.path = files.checked_path(path)
        if not (self.path / MANIFEST).is_file():
            raise ModulesError(
                f"There is no finished activation store in {str(path)!r}: {MANIFEST} is missing. "
                "Check the path. Repeat an interrupted collection to resume it. A "
                "StoreWriter cannot resume: delete the folder and write the store again."
            )

        manifest = Manifest.read(self.path)
        self.units = manifest.units
        self.samples = manifest.samples
        self.model_name = manifest.model_name
        self.dtype = manifest.dtype
        self.unit_means = manifest.unit_means
        self.chunks = manifest.chunks
        self.reading = manifest.reading
        """How the values came about."""
        self.bytes_read = 0
        """Bytes of values that passes over the store have read so far."""
        if sum(chunk.n_rows for chunk in self.chunks) != len(self.samples):
            raise ModulesError(f"{str(path)!r} lists other samples than chunks. Write it anew.")
        for number in range(len(self.chunks)):
            self.read_chunk(number)

    @classmethod
    @checked
    def create(
        cls,
        path: str | Path,
        units: Units,
        *,
        dtype: StoreDtype = "float16",
        samples_per_chunk: int | None = None,
        model_name: str = "unknown",
        reading: Reading | None = None,
    ) -> "StoreWriter":
        """Begin a new store.

        Args:
            path: The folder, new or empty.
            units: What the columns are: whole hook points.
            dtype: ``"float16"``, ``"bfloat16"`` or ``"float32"``.
            samples_per_chunk: By default as many as make 128 MB.
            model_name: The model that the activations come from.
            reading: How they come about; by default mean |activation| over all tokens.

        Returns:
            A writer; the store exists once the writer is closed.

        Raises:
            ModulesError: If the folder holds something already or cannot be made, or an option
                cannot be.
        """
        return StoreWriter(
            path,
            units,
            dtype=dtype,
            samples_per_chunk=samples_per_chunk,
            model_name=model_name,
            reading=reading,
        )

    @property
    def shape(self) -> tuple[int, int]:
        """Samples and units."""
        return len(self.samples), len(self.units)

    @property
    def half(self) -> _half.Half:
        """How the values' bits are read."""
        return _half.FORMATS[self.dtype]

    def read_chunk(self, number: int) -> Halves:
        """A chunk's values, as bits, as a memory map.

        Raises:
            ModulesError: If the file is missing or has another shape than listed.
        """
        return read_chunk(self.path, self.chunks[number], len(self.units), self.half)

    def iter_chunks(self, columns: tuple[int, int] | None = None) -> Iterator[tuple[int, Halves]]:
        """Each chunk's first row and its values, as bits; the next one is read ahead meanwhile.

        Args:
            columns: Where the columns that the caller will read begin and end, if not all.
        """
        start = 0
        first, stop = (0, len(self.units)) if columns is None else columns
        for number, chunk in enumerate(self.chunks):
            if columns is None and number + 1 < len(self.chunks):
                _read_ahead(self.path / self.chunks[number + 1].name)
            halves = self.read_chunk(number)
            self.bytes_read += halves.itemsize * len(halves) * (stop - first)
            yield start, halves
            start += chunk.n_rows

    def fit_zscore(self, ranks: Ranks = ALONE) -> ZScore:
        """Each unit's mean and standard deviation, in one pass, which also checks the chunks.

        Args:
            ranks: Who share the units and the checks.

        Raises:
            ModulesError: If there are fewer than two samples, a chunk was altered, or a value is
                NaN or infinite.
        """
        n_samples, n_units = self.shape
        if n_samples < 2:
            raise ModulesError(
                f"A z-score needs at least 2 samples; got {n_samples}. Collect more prompts."
            )
        first, stop = (n_units * rank // ranks.world for rank in (ranks.rank, ranks.rank + 1))
        mean, squares = np.zeros(stop - first), np.zeros(stop - first)
        columns = None if ranks.world == 1 else (first, stop)
        for number, (start, halves) in enumerate(self.iter_chunks(columns)):
            if number % ranks.world == ranks.rank:
                check_chunk(self.path, self.chunks[number], halves, self.half)
            _half.add_moments(halves, self.half.shift, self.half.scale, first, start, mean, squares)
        mean, squares = (
            ranks.spread(np.concatenate(parts) if parts else None)
            for parts in (ranks.gather(mean), ranks.gather(squares))
        )
        std = np.sqrt(squares / (n_samples - 1))
        return ZScore(mean, np.where(std < MIN_STD, 1.0, std))

    def matrix(
        self, rows: Int[np.ndarray, " _rows"] | Sequence[int] | None = None
    ) -> ActivationMatrix:
        """Some samples, or all, as an ``ActivationMatrix`` in memory.

        Args:
            rows: Which samples, in which order; all by default.

        Returns:
            The matrix, float32.

        Raises:
            ModulesError: If there is no such sample.
        """
        n_samples, n_units = self.shape
        chosen = checked_rows(np.arange(n_samples) if rows is None else rows, n_samples)
        values = np.empty((len(chosen), n_units), dtype=np.float32)
        shift, scale = self.half.shift, self.half.scale
        start = 0
        for number, chunk in enumerate(self.chunks):
            places = np.flatnonzero((chosen >= start) & (chosen < start + chunk.n_rows))
            if len(places):
                halves = self.read_chunk(number)
                for place in places:
                    _half.decode(halves[chosen[place] - start], shift, scale, values[place])
            start += chunk.n_rows
        return ActivationMatrix(
            values,
            self.units,
            self.samples.iloc[chosen].reset_index(drop=True),
            self.unit_means,
            self.model_name,
            reading=self.reading,
        )

    def verify(self) -> None:
        """Compare every chunk with its checksum; reads the whole store.

        Raises:
            ModulesError: If one was altered, or holds NaN or infinite values.
        """
        for chunk, (_, halves) in zip(self.chunks, self.iter_chunks(), strict=True):
            check_chunk(self.path, chunk, halves, self.half)

    def __repr__(self) -> str:
        """One line."""
        n_samples, n_units = self.shape
        return (
            f"ActivationStore({self.reading}: {n_samples:,} samples x {n_units:,} units of "
            f"{self.model_name}, {self.dtype}, {len(self.chunks)} chunks in {str(self.path)!r})"
        )

    def _repr_html_(self) -> str:
        """For Jupyter: its size and its first samples."""
        return html_table(repr(self), self.samples.head(5))


class StoreWriter:
    """Writes a store chunk by chunk; see ``ActivationStore.create``."""

    @checked
    def __init__(
        self,
        path: str | Path,
        units: Units,
        *,
        dtype: StoreDtype = "float16",
        samples_per_chunk: int | None = None,
        model_name: str = "unknown",
        reading: Reading | None = None,
    ) -> None:
        """Make the folder; see ``ActivationStore.create``."""
        check_choice("dtype", dtype, DTYPES)
        half = _half.FORMATS[dtype]
        if not len(units) or not units.are_whole():
            raise ModulesError(
                "The columns should be all units of the hook points, in order. Give the store "
                "whole hook points; choose units later, from the modules."
            )
        if samples_per_chunk is None:
            samples_per_chunk = max(1, _CHUNK_BYTES // (half.n_bytes * len(units)))
        check_at_least("samples_per_chunk", samples_per_chunk, 1)
        self._path = files.checked_path(path)
        try:
            self._path.mkdir(parents=True, exist_ok=True)
            holds_something = any(self._path.iterdir())
        except OSError as error:
            raise ModulesError(f"Cannot make the folder {str(path)!r}: {error}.") from error
        if holds_something:
            raise ModulesError(
                f"{str(path)!r} should be a new or empty folder; it holds files. Name another one, "
                "or delete it first."
            )
        self._units = units
        self._half = half
        self._model_name = model_name
        self._reading = Reading() if reading is None else reading
        self.unit_means: Float[np.ndarray, " _coordinates"] | None = None
        """Each coordinate's mean (signed), for mean ablation; kept by ``close``."""
        self._state = "open"
        self._buffer = np.empty((samples_per_chunk, len(units)), dtype=half.bits)
        self._n_buffered = 0
        self._chunks: list[Chunk] = []
        self._samples: list[pd.DataFrame] = []

    def add(
        self,
        values: Float[np.ndarray, "_samples _units"],
        samples: pd.DataFrame | Mapping[str, Sequence[Any]] | Sequence[Any] | None = None,
    ) -> None:
        """Add samples.

        Args:
            values: Mean |activation|, or what the reading says; shape ``[samples, units]``.
            samples: What they are, one row each; numbered without it.

        Raises:
            ModulesError: If the shapes do not fit, a value is not finite or too large for the
                format, or the writer is closed: nothing of the batch is added then. If the disk is
                full: the store cannot be finished then.
        """
        self._check_open()
        if values.ndim != 2 or values.shape[1] != len(self._units):
            raise ModulesError(
                f"values should have shape samples x {len(self._units)}; got {values.shape}."
            )
        first = sum(len(frame) for frame in self._samples)
        frame = sample_table(samples, "sample", len(values), first)  # refused now, not at the end
        check_finite(values, self._units, names=range(first, first + len(values)))
        check_fits(values, self._half)
        self._samples.append(frame)
        encoded = _half.encode(values, self._half)
        done = 0
        while done < len(encoded):
            part = encoded[done : done + len(self._buffer) - self._n_buffered]
            self._buffer[self._n_buffered : self._n_buffered + len(part)] = part
            self._n_buffered += len(part)
            done += len(part)
            if self._n_buffered == len(self._buffer):
                self._flush()

    def close(self) -> ActivationStore:
        """Write what is left and the list of chunks.

        Returns:
            The store.

        Raises:
            ModulesError: If there is no sample, ``unit_means`` do not fit, the writer is closed, or
                the disk is full.
        """
        self._check_open()
        unit_means = self.unit_means
        if not self._samples:
            raise ModulesError("A store should hold at least one sample; none was added.")
        check_unit_means(unit_means, self._units)
        if self._n_buffered:
            self._flush()
        Manifest(
            self._units,
            pd.concat(self._samples, ignore_index=True),
            self._model_name,
            self._half.name,
            self._chunks,
            unit_means,
            self._reading,
        ).write(self._path)
        self._state = "closed"
        return ActivationStore(self._path)

    def __enter__(self) -> "StoreWriter":
        """The writer itself."""
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Close, unless that is done or an error is on its way."""
        if kind is None and self._state == "open":
            self.close()

    def _check_open(self) -> None:
        if self._state != "open":
            raise ModulesError(
                f"This writer is {self._state}; it takes no more samples. Create another store."
            )

    def _flush(self) -> None:
        self._state = "broken"  # until the chunk is on disk
        rows = self._buffer[: self._n_buffered]
        self._chunks.append(write_chunk(self._path, len(self._chunks), rows, self._half))
        self._state = "open"
        self._n_buffered = 0


def _read_ahead(path: Path) -> None:
    """Ask the system to read a file into its cache, where it can be asked."""
    if not hasattr(os, "posix_fadvise"):
        return
    with path.open("rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_WILLNEED)
