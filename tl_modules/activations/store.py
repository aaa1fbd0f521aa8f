"""An activation matrix on disk, in chunks of samples, for matrices larger than memory."""

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from tl_modules.activations import _half
from tl_modules.activations._half import StoreDtype
from tl_modules.activations.chunk_buffer import ChunkBuffer
from tl_modules.activations.chunks import Halves, check_chunk, check_fits, read_chunk
from tl_modules.activations.manifest import MANIFEST, Manifest
from tl_modules.activations.matrix import ActivationMatrix
from tl_modules.activations.normalise import MIN_STD, ZScore
from tl_modules.activations.reading import Reading
from tl_modules.activations.store_folder import make_empty_folder
from tl_modules.activations.value_checks import check_finite, check_unit_means, checked_rows
from tl_modules.errors import ModulesError, check_at_least
from tl_modules.runtime.arguments import checked
from tl_modules.runtime.compiled_threads import start_threads
from tl_modules.runtime.processes import ALONE, Processes
from tl_modules.saving import files
from tl_modules.tables.html_tables import html_table
from tl_modules.tables.prompt_tables import sample_table
from tl_modules.units import Units

_CHUNK_BYTES = 128 * 1024**2


class ActivationStore:
    """Raw activations in a folder, for matrices larger than memory.

    ``discover`` takes a store in place of an ``ActivationMatrix``. It reads the chunks as memory
    maps, one after another, and its own arrays hold one number per unit and module. A store in
    float16 has 11 significant bits and a largest value of 65,504. bfloat16 has 8 bits and the
    range of float32. float32 stores every value exactly, in twice the space.

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
            ModulesError: If the folder holds no finished store: its list of chunks is missing or
                altered, or a chunk is missing or not of the listed size.
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
        self.content_means = manifest.content_means
        self.chunks = manifest.chunks
        self.reading = manifest.reading
        """How the values were computed."""
        self.bytes_read = 0
        """Bytes of values that passes over the store have read so far."""
        if sum(chunk.n_rows for chunk in self.chunks) != len(self.samples):
            raise ModulesError(
                f"The chunks of {str(path)!r} should hold as many samples as its list; they do "
                "not. Write the store again."
            )
        # Reading the headers now finds a missing or truncated chunk before hours of work.
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
        """Begin a new store for activations that were computed elsewhere.

        Args:
            path: The folder, new or empty.
            units: The columns: all units of one or more hook points.
            dtype: ``"float16"``, ``"bfloat16"`` or ``"float32"``.
            samples_per_chunk: Number of samples per chunk; by default as many as fill 128 MB.
            model_name: The name of the model that the activations come from.
            reading: How the values were computed; by default mean |activation| over all tokens.

        Returns:
            A writer; the store exists once the writer is closed.

        Raises:
            ModulesError: If the folder holds files or cannot be made, or an option is not valid.
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
        """Number of samples and number of units."""
        return len(self.samples), len(self.units)

    @property
    def half(self) -> _half.Half:
        """The values' number format."""
        return _half.FORMATS[self.dtype]

    def read_chunk(self, number: int) -> Halves:
        """A chunk's values, as bits, in a memory map.

        Raises:
            ModulesError: If the file is missing or is not of the listed shape.
        """
        return read_chunk(self.path, self.chunks[number], len(self.units), self.half)

    def iter_chunks(self, columns: tuple[int, int] | None = None) -> Iterator[tuple[int, Halves]]:
        """Yield each chunk's first row and its values as bits, while the next chunk is read ahead.

        Args:
            columns: The first column that the caller reads, and the column after the last one; by
                default all columns. With this argument, ``bytes_read`` counts only these columns,
                and no chunk is read ahead.
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

    def fit_zscore(self, processes: Processes = ALONE) -> ZScore:
        """Fit each unit's mean and standard deviation, and check the chunks, in one pass.

        Args:
            processes: The processes that share the units and the checks.

        Raises:
            ModulesError: If there are fewer than two samples, a chunk was altered, or a value is
                NaN or infinite.
        """
        n_samples, n_units = self.shape
        if n_samples < 2:
            raise ModulesError(
                f"A z-score needs at least 2 samples; got {n_samples}. Collect more prompts."
            )
        rank, world_size = processes.rank, processes.world_size
        # Each process has the moments of its own columns over all rows: no sum crosses processes,
        # so the result does not depend on how many there are.
        first, stop = (n_units * bound // world_size for bound in (rank, rank + 1))
        mean, squares = np.zeros(stop - first), np.zeros(stop - first)
        columns = None if world_size == 1 else (first, stop)
        start_threads()
        for number, (start, halves) in enumerate(self.iter_chunks(columns)):
            if number % world_size == rank:
                check_chunk(self.path, self.chunks[number], halves, self.half)
            _half.add_moments(halves, self.half.shift, self.half.scale, first, start, mean, squares)
        mean, squares = (
            processes.broadcast(np.concatenate(parts) if parts else None)
            for parts in (processes.gather(mean), processes.gather(squares))
        )
        std = np.sqrt(squares / (n_samples - 1))
        return ZScore(mean, np.where(std < MIN_STD, 1.0, std))

    def matrix(
        self, rows: Int[np.ndarray, " _rows"] | Sequence[int] | None = None
    ) -> ActivationMatrix:
        """Load samples as an ``ActivationMatrix``, for functions that need one in memory.

        Args:
            rows: The samples' row numbers, in the wanted order; by default all samples.

        Returns:
            The matrix, float32.

        Raises:
            ModulesError: If no sample has one of the numbers.
        """
        n_samples, n_units = self.shape
        numbers = checked_rows(np.arange(n_samples) if rows is None else rows, n_samples)
        values = np.empty((len(numbers), n_units), dtype=np.float32)
        shift, scale = self.half.shift, self.half.scale
        start = 0
        for number, chunk in enumerate(self.chunks):
            places = np.flatnonzero((numbers >= start) & (numbers < start + chunk.n_rows))
            if len(places):
                halves = self.read_chunk(number)
                for place in places:
                    _half.decode(halves[numbers[place] - start], shift, scale, values[place])
            start += chunk.n_rows
        return ActivationMatrix(
            values,
            self.units,
            self.samples.iloc[numbers].reset_index(drop=True),
            self.unit_means,
            self.model_name,
            reading=self.reading,
            content_means=self.content_means,
        )

    def verify(self) -> None:
        """Compare every chunk with its checksum, for example after copying a store.

        Raises:
            ModulesError: If a chunk was altered, or holds NaN or infinite values.
        """
        for chunk, (_, halves) in zip(self.chunks, self.iter_chunks(), strict=True):
            check_chunk(self.path, chunk, halves, self.half)

    def __repr__(self) -> str:
        """One line without the values."""
        n_samples, n_units = self.shape
        return (
            f"ActivationStore({self.reading}: {n_samples:,} samples x {n_units:,} units of "
            f"{self.model_name}, {self.dtype}, {len(self.chunks)} chunks in {str(self.path)!r})"
        )

    def _repr_html_(self) -> str:
        """The store's size and its first samples, for Jupyter."""
        return html_table(repr(self), self.samples.head(5))


class StoreWriter:
    """Writes a store chunk by chunk; ``ActivationStore.create`` returns one."""

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
        make_empty_folder(self._path)
        self._units = units
        self._half = half
        self._model_name = model_name
        self._reading = Reading() if reading is None else reading
        self.unit_means: Float[np.ndarray, " _coordinates"] | None = None
        """Each coordinate's mean (signed), for mean ablation; kept by ``close``."""
        self.content_means: Float[np.ndarray, " _coordinates"] | None = None
        """The means without special tokens and attention sinks; kept by ``close``."""
        self._state = "open"
        self._buffer = ChunkBuffer(self._path, half, samples_per_chunk, len(units))
        self._samples: list[pd.DataFrame] = []

    def add(
        self,
        values: Float[np.ndarray, "_samples _units"],
        samples: pd.DataFrame | Mapping[str, Sequence[Any]] | Sequence[Any] | None = None,
    ) -> None:
        """Add samples.

        Args:
            values: Mean |activation|, or the values that the reading describes; shape
                ``[samples, units]``.
            samples: One row per sample; by default they are numbered.

        Raises:
            ModulesError: If the shapes do not fit, a value is not finite or too large for the
                format, or the writer is closed; nothing from the batch is then added. Also if the
                disk is full; the store can then no longer be finished.
        """
        self._check_open()
        if values.ndim != 2 or values.shape[1] != len(self._units):
            raise ModulesError(
                f"values should have shape samples x {len(self._units)}; got {values.shape}."
            )
        first = sum(len(frame) for frame in self._samples)
        # Samples that cannot be saved are refused here rather than in ``close``, hours later.
        frame = sample_table(samples, "sample", len(values), first)
        check_finite(values, self._units, names=range(first, first + len(values)))
        check_fits(values, self._half)
        self._samples.append(frame)
        self._state = "broken"  # stays so if a chunk cannot be written
        self._buffer.add(_half.encode(values, self._half))
        self._state = "open"

    def close(self) -> ActivationStore:
        """Write the last chunk and the list of chunks.

        Returns:
            The finished store.

        Raises:
            ModulesError: If no sample was added, ``unit_means`` do not fit, the writer is closed,
                or the disk is full.
        """
        self._check_open()
        unit_means, content_means = self.unit_means, self.content_means
        if not self._samples:
            raise ModulesError(
                "A store should hold at least one sample; none was added. Call add(values) first."
            )
        check_unit_means(unit_means, self._units)
        check_unit_means(content_means, self._units, "content_means")
        self._state = "broken"
        self._buffer.flush()
        self._state = "open"
        Manifest(
            self._units,
            pd.concat(self._samples, ignore_index=True),
            self._model_name,
            self._half.name,
            self._buffer.chunks,
            unit_means,
            self._reading,
            content_means,
        ).write(self._path)
        self._state = "closed"
        return ActivationStore(self._path)

    def __enter__(self) -> "StoreWriter":
        """The writer itself."""
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Close the writer, unless it is closed already or an error was raised."""
        if kind is None and self._state == "open":
            self.close()

    def _check_open(self) -> None:
        if self._state != "open":
            raise ModulesError(
                f"This writer is {self._state}; it takes no more samples. Create another store."
            )


def _read_ahead(path: Path) -> None:
    """Ask the system to read a file into its cache; Windows and macOS cannot be asked."""
    if not hasattr(os, "posix_fadvise"):
        return
    with path.open("rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_WILLNEED)
