"""The activation matrix, from which modules are discovered."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from jaxtyping import Float, Int
from numpy.typing import ArrayLike

from tl_modules.activations.labelled_arrays import labelled_array
from tl_modules.activations.normalise import (
    Normalisation,
    Normaliser,
    ZScore,
    check_normaliser,
    fit_normaliser,
    largest_normaliser,
    normaliser_arrays,
    read_normaliser,
)
from tl_modules.activations.reading import Reading
from tl_modules.activations.value_checks import check_finite, check_unit_means, checked_rows
from tl_modules.errors import ModulesError
from tl_modules.runtime.arguments import checked
from tl_modules.saving import files
from tl_modules.saving.checked_json import checked_text
from tl_modules.tables.frames import frame_from_json, frame_to_json, n_rows
from tl_modules.tables.html_tables import html_table
from tl_modules.tables.prompt_tables import sample_table
from tl_modules.units import Units

if TYPE_CHECKING:
    from xarray import DataArray

FILE_KIND = "ActivationMatrix"


@dataclass(frozen=True, eq=False, repr=False)
class ActivationMatrix:
    """A matrix of how strongly each sample drives each unit, with its samples and units."""

    values: Float[np.ndarray, "_samples _units"]
    """One value per sample and unit, as ``reading`` describes it; normalised if there is a
    ``normaliser``."""

    units: Units
    """The columns."""

    samples: pd.DataFrame
    """The rows: ``prompt``, ``n_tokens`` and the columns that the user gave."""

    unit_means: Float[np.ndarray, " _coordinates"] | None = None
    """Each coordinate's mean (signed) over all tokens that counted, for mean ablation. Most units
    have one coordinate; attention heads have several."""

    model_name: str = "unknown"
    """The name of the model that was run."""

    normaliser: Normaliser | None = None
    """The normaliser that ``normalise()`` fitted; None in a raw matrix."""

    reading: Reading = field(default_factory=Reading)
    """How the raw values were computed."""

    content_means: Float[np.ndarray, " _coordinates"] | None = None
    """Each coordinate's mean (signed) over the content among these tokens: without special tokens
    and attention sinks, which are a thousand times larger in some units."""

    def __post_init__(self) -> None:
        """Validate the fields: they must fit together, and the values must be finite."""
        if self.values.shape != (len(self.samples), len(self.units)):
            raise ModulesError(
                f"values should have shape samples x units = "
                f"{(len(self.samples), len(self.units))}; got {self.values.shape}."
            )
        if not self.units.are_whole():
            raise ModulesError(
                "The columns should be all units of the hook points, in order. Give the matrix "
                "whole hook points; choose units later, from the modules."
            )
        if not len(self.samples) or not len(self.units):
            raise ModulesError(
                f"A matrix should hold at least one sample and one unit; got {self.values.shape}."
            )
        if self.values.dtype.kind != "f":
            raise ModulesError(
                f"values should be floats; they are {self.values.dtype}. Use "
                "ActivationMatrix.from_arrays, which converts them."
            )
        check_unit_means(self.unit_means, self.units)
        check_unit_means(self.content_means, self.units, "content_means")
        check_normaliser(self.normaliser, len(self.units))
        check_finite(self.values, self.units)

    @property
    def shape(self) -> tuple[int, int]:
        """Number of samples and number of units."""
        return len(self.samples), len(self.units)

    @classmethod
    def from_arrays(
        cls,
        values: ArrayLike,
        units: Units | None = None,
        samples: pd.DataFrame | Mapping[str, Sequence[Any]] | Sequence[Any] | None = None,
        unit_means: Float[np.ndarray, " _units"] | None = None,
        reading: Reading | None = None,
    ) -> "ActivationMatrix":
        """Build a matrix from values that were computed elsewhere.

        Args:
            values: Mean |activation|, or the values that ``reading`` describes; shape
                ``[samples, units]``.
            units: The columns. Modules of a matrix without units cannot be hooked to a model.
            samples: The rows: a frame, columns by name, or a list; by default they are numbered.
                Dates and times become text, as in ``collect``.
            unit_means: Mean (signed) activation of each unit, for mean ablation.
            reading: How the values were computed; by default mean |activation| over all tokens.

        Returns:
            The matrix, float32; float64 values stay float64.

        Raises:
            ModulesError: If the shapes do not fit, a value is NaN or infinite, or a column of
                ``samples`` cannot be saved as JSON.

        >>> ActivationMatrix.from_arrays(np.ones((2, 3))).values.shape
        (2, 3)
        """
        try:
            values = np.asarray(values)
            if values.dtype != np.float64:
                values = values.astype(np.float32)
        except (ValueError, TypeError) as error:
            raise ModulesError(
                f"values should be numbers in rows of one length; got {error}."
            ) from error
        if values.ndim != 2:
            raise ModulesError(f"values should have 2 axes, samples x units; got {values.shape}.")
        return cls(
            values,
            Units.anonymous(values.shape[1]) if units is None else units,
            sample_table(samples, "sample", len(values)),
            unit_means,
            reading=Reading() if reading is None else reading,
        )

    def zscore(self, like: ZScore | None = None) -> "ActivationMatrix":
        """Z-score each unit over the samples; the same as ``normalise("zscore")``.

        Args:
            like: A fitted ``ZScore``, for held-out samples; by default one is fitted.

        Returns:
            The normalised matrix.

        Raises:
            ModulesError: As in ``normalise``.

        >>> acts = ActivationMatrix.from_arrays([[1.0, 5.0], [3.0, 5.0]])
        >>> acts.zscore().values.round(2).tolist()
        [[-0.71, 0.0], [0.71, 0.0]]
        """
        return self.normalise("zscore", like)

    @checked
    def normalise(self, name: Normalisation, like: Normaliser | None = None) -> "ActivationMatrix":
        """Normalise each unit over the samples, to choose the scale that ``discover`` works on.

        ``discover`` z-scores a raw matrix and takes a normalised one as it is.

        Args:
            name: ``"zscore"`` (arXiv 2603.17823); ``"rank"``, each value's rank among the unit's
                values, scaled to mean 0 and variance 1; or ``"none"``, the raw values.
            like: A fitted normaliser, for held-out samples; by default one is fitted.

        Returns:
            A new matrix with its ``normaliser``.

        Raises:
            ModulesError: If ``name`` is not a normalisation, there are fewer than two samples to
                fit on, the matrix is normalised already, or ``like`` was fitted on other units.
        """
        if self.normaliser is not None:
            raise ModulesError(
                f"These activations are {self.normaliser.noun} already. Normalise the matrix as "
                "collected."
            )
        # NumPy need not warn of overflow: the new matrix refuses values that are not finite.
        with np.errstate(over="ignore", invalid="ignore"):
            fitted = fit_normaliser(name, self.values) if like is None else like
        if not isinstance(fitted, Normaliser) or fitted.name != name:
            raise ModulesError(
                f"like should be a fitted {name!r} normaliser; got {type(fitted).__name__}. Pass "
                f"the normaliser of a matrix that went through normalise({name!r})."
            )
        check_normaliser(fitted, len(self.units))
        with np.errstate(over="ignore", invalid="ignore"):
            values = fitted.apply(self.values)
        return replace(self, values=values, normaliser=fitted)

    def select(self, rows: Int[np.ndarray, " _rows"] | Sequence[int]) -> "ActivationMatrix":
        """Select samples, for example to split prompts into two halves.

        Args:
            rows: The samples' row numbers, in the wanted order.

        Returns:
            A new matrix. Its ``unit_means`` and ``content_means`` are still those of all samples.

        Raises:
            ModulesError: If no sample has one of the numbers.
        """
        numbers = checked_rows(rows, len(self.samples))
        samples = self.samples.iloc[numbers].reset_index(drop=True)
        return replace(self, values=self.values[numbers], samples=samples)

    def to_xarray(self) -> "DataArray":
        """Return the values as an xarray ``DataArray``, to select and group by name.

        Returns:
            An array with the dimensions ``sample`` and ``unit``. It shares the values and cannot be
            written to. Units have the coordinates ``layer``, ``hook_name`` and ``index`` (the
            unit's number at its hook point), which ``sel`` takes. Samples have the columns of
            ``samples``: ``prompt``, ``category`` and so on; one named like a unit's coordinate gets
            the prefix ``sample_``. Attributes: ``model_name``, ``reading`` and ``normalisation``.

        Raises:
            ModulesError: If xarray is not installed (extra ``xarray``).

        >>> acts = ActivationMatrix.from_arrays([[1.0, 5.0], [3.0, 5.0]])
        >>> acts.to_xarray().sel(index=1).values.tolist()
        [5.0, 5.0]
        """
        normalisation = "none" if self.normaliser is None else self.normaliser.name
        return labelled_array(
            self.values,
            self.units,
            self.samples,
            name=self.reading.weight,
            attrs={
                "model_name": self.model_name,
                "reading": str(self.reading),
                "normalisation": normalisation,
            },
        )

    def save(self, path: str | Path) -> None:
        """Write the matrix to a safetensors file with a JSON header; ``load`` reads it.

        An existing file is replaced only once the new one is complete.

        Raises:
            ModulesError: If the file cannot be written, or a column of ``samples`` cannot be saved
                as JSON.
        """
        files.write(path, FILE_KIND, *self.parts())

    def parts(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """The content of a saved file: a JSON-ready header, and arrays by name."""
        header = {
            "units": self.units.to_dict(),
            "samples": frame_to_json(self.samples),
            "model_name": self.model_name,
            "reading": self.reading.to_dict(),
            "normalisation": None if self.normaliser is None else self.normaliser.name,
        }
        arrays = {"values": self.values, **normaliser_arrays(self.normaliser)}
        for name in ("unit_means", "content_means"):
            if getattr(self, name) is not None:
                arrays[name] = getattr(self, name)
        return header, arrays

    @classmethod
    def load(cls, path: str | Path) -> "ActivationMatrix":
        """Read a matrix that ``save`` wrote.

        Raises:
            ModulesError: If the file is missing, truncated or altered, or is not an activation
                matrix.
        """

        def largest(header: dict[str, Any]) -> dict[str, tuple[int, ...]]:
            n_units, n_coordinates = Units.sizes(header["units"])
            shapes = {
                "values": (n_rows(header["samples"]), n_units),
                "unit_means": (n_coordinates,),
                "content_means": (n_coordinates,),
            }
            return shapes | largest_normaliser(n_units)

        def build(header: dict[str, Any], arrays: dict[str, np.ndarray]) -> "ActivationMatrix":
            return cls(
                arrays["values"],
                Units.from_dict(header["units"], arrays["values"].shape[1]),
                frame_from_json(header["samples"]),
                arrays.get("unit_means"),
                checked_text(header["model_name"]),
                read_normaliser(header["normalisation"], arrays),
                Reading.from_dict(header["reading"]),
                arrays.get("content_means"),
            )

        return files.read(path, FILE_KIND, build, largest)

    def __repr__(self) -> str:
        """One line without the arrays."""
        n_samples, n_units = self.values.shape
        kind = str(self.reading)
        if self.normaliser is not None:
            kind = f"{self.normaliser.noun} of {kind}"
        return (
            f"ActivationMatrix({kind}: {n_samples:,} samples x {n_units:,} units of "
            f"{self.model_name})"
        )

    def _repr_html_(self) -> str:
        """The matrix's size and its first samples, for Jupyter."""
        return html_table(repr(self), self.samples.head(5))
