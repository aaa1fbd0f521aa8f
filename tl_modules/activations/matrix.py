"""The activation matrix: what discovery works on."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float, Int
from numpy.typing import ArrayLike

from tl_modules.activations.normalise import (
    NORMALISATIONS,
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
from tl_modules.errors import ModulesError, check_choice
from tl_modules.runtime.arguments import checked
from tl_modules.saving import files
from tl_modules.saving.checked_json import text
from tl_modules.tables.frames import frame_from_json, frame_to_json, n_rows
from tl_modules.tables.html_tables import html_table
from tl_modules.tables.prompt_tables import sample_table
from tl_modules.units import Units, check_unit_means

FILE_KIND = "ActivationMatrix"


@dataclass(frozen=True, eq=False, repr=False)
class ActivationMatrix:
    """How strongly each sample drives each unit."""

    values: Float[np.ndarray, "_samples _units"]
    """What ``reading`` says of each unit on each sample, or that normalised."""

    units: Units
    """What the columns are."""

    samples: pd.DataFrame
    """What the rows are: ``prompt``, ``n_tokens`` and whatever else was given."""

    unit_means: Float[np.ndarray, " _coordinates"] | None = None
    """Each coordinate's mean (signed) over all tokens that counted: mean ablation's values. Most
    units have one coordinate, attention heads several."""

    model_name: str = "unknown"
    """The model they come from."""

    normaliser: Normaliser | None = None
    """What ``normalise()`` fitted; None in a raw matrix."""

    reading: Reading = field(default_factory=Reading)
    """How the raw values came about."""

    def __post_init__(self) -> None:
        """Refuse parts that do not fit together, and values that are not finite."""
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
        check_normaliser(self.normaliser, len(self.units))
        check_finite(self.values, self.units)

    @property
    def shape(self) -> tuple[int, int]:
        """Samples and units."""
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
        """A matrix made elsewhere.

        Args:
            values: Mean |activation|, or what ``reading`` says; shape ``[samples, units]``.
            units: What the columns are; without it the modules cannot be hooked to a model.
            samples: What the rows are: a frame, columns by name, or a list; numbered without it.
                Dates and times become text, as ``collect`` keeps them.
            unit_means: Mean (signed) activation of each unit, for mean ablation.
            reading: How the values came about; by default mean |activation| over all tokens.

        Returns:
            The matrix, float32 (float64 stays).

        Raises:
            ModulesError: If the shapes do not fit, a value is NaN or infinite, or a column of
                ``samples`` holds values that JSON cannot.

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
        """Each unit z-scored over the samples: ``normalise("zscore")``.

        Args:
            like: A fitted ``ZScore`` to use instead, for held-out samples.

        Returns:
            As ``normalise``.

        Raises:
            ModulesError: As ``normalise`` raises.
        """
        return self.normalise("zscore", like)

    @checked
    def normalise(self, name: Normalisation, like: Normaliser | None = None) -> "ActivationMatrix":
        """Each unit normalised over the samples. ``discover`` takes such a matrix as it is.

        Args:
            name: ``"zscore"`` (arXiv 2603.17823; what ``discover`` does to a raw matrix);
                ``"rank"``, each unit's place among its own values on the samples, scaled to mean 0
                and variance 1; or ``"none"``, the values as they are.
            like: A fitted normaliser to use instead, for held-out samples.

        Returns:
            A new matrix; its ``normaliser`` holds what was fitted.

        Raises:
            ModulesError: If there is no such normalisation, there are fewer than two samples to fit
                on, the matrix is normalised already, or ``like`` was fitted on other units.
        """
        if self.normaliser is not None:
            raise ModulesError(
                f"These activations are {self.normaliser.noun} already. Normalise the matrix as "
                "collected."
            )
        check_choice("normalise", name, NORMALISATIONS)
        with np.errstate(over="ignore", invalid="ignore"):  # what does not fit is refused
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
        """Some samples, in the order given.

        Args:
            rows: Their numbers. ``unit_means`` stay those of all samples.

        Returns:
            A new matrix.

        Raises:
            ModulesError: If there is no such sample.
        """
        chosen = checked_rows(rows, len(self.samples))
        samples = self.samples.iloc[chosen].reset_index(drop=True)
        return replace(self, values=self.values[chosen], samples=samples)

    def save(self, path: str | Path) -> None:
        """Write the matrix to one safetensors file with a JSON header, atomically.

        Raises:
            ModulesError: If the file cannot be written, or a column of ``samples`` holds values
                that JSON cannot.
        """
        files.write(path, FILE_KIND, *self.parts())

    def parts(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """What a file keeps: a JSON-ready header, and arrays by name."""
        header = {
            "units": self.units.to_dict(),
            "samples": frame_to_json(self.samples),
            "model_name": self.model_name,
            "reading": self.reading.to_dict(),
            "normalisation": None if self.normaliser is None else self.normaliser.name,
        }
        arrays = {"values": self.values, **normaliser_arrays(self.normaliser)}
        if self.unit_means is not None:
            arrays["unit_means"] = self.unit_means
        return header, arrays

    @classmethod
    def load(cls, path: str | Path) -> "ActivationMatrix":
        """Read a matrix that ``save`` wrote.

        Raises:
            ModulesError: If the file is missing, truncated, altered, or no activation matrix.
        """

        def largest(header: dict[str, Any]) -> dict[str, tuple[int, ...]]:
            n_units, n_coordinates = Units.sizes(header["units"])
            shapes = {
                "values": (n_rows(header["samples"]), n_units),
                "unit_means": (n_coordinates,),
            }
            return shapes | largest_normaliser(n_units)

        def build(header: dict[str, Any], arrays: dict[str, np.ndarray]) -> "ActivationMatrix":
            return cls(
                arrays["values"],
                Units.from_dict(header["units"], arrays["values"].shape[1]),
                frame_from_json(header["samples"]),
                arrays.get("unit_means"),
                text(header["model_name"]),
                read_normaliser(header["normalisation"], arrays),
                Reading.from_dict(header["reading"]),
            )

        return files.read(path, FILE_KIND, build, largest)

    def __repr__(self) -> str:
        """One line, not its arrays."""
        n_samples, n_units = self.values.shape
        kind = str(self.reading)
        if self.normaliser is not None:
            kind = f"{self.normaliser.noun} of {kind}"
        return (
            f"ActivationMatrix({kind}: {n_samples:,} samples x {n_units:,} units of "
            f"{self.model_name})"
        )

    def _repr_html_(self) -> str:
        """For Jupyter: its size and its first samples."""
        return html_table(repr(self), self.samples.head(5))


def checked_rows(
    rows: Int[np.ndarray, " _rows"] | Sequence[int], n_samples: int
) -> Int[np.ndarray, " rows"]:
    """Numbers of samples as an array.

    Raises:
        ModulesError: If there is none, or no such sample.
    """
    chosen = np.asarray(rows)
    whole = chosen.ndim == 1 and len(chosen) and chosen.dtype.kind in "iu"
    if not whole or chosen.min() < 0 or chosen.max() >= n_samples:
        raise ModulesError(
            f"rows should be whole numbers from 0 to {n_samples - 1}, at least one; got {rows!r}."
        )
    return chosen.astype(np.int64)


def check_finite(
    values: Float[np.ndarray, "samples units"], units: Units, names: Sequence[Any] | None = None
) -> None:
    """Refuse NaN and infinite activations, named by hook point and sample.

    Args:
        values: The activations.
        units: What the columns are.
        names: What to call the rows in the message; their numbers by default.

    Raises:
        ModulesError: If there is one.
    """
    with np.errstate(over="ignore", invalid="ignore"):  # what the sums are looked at for
        finite = np.isfinite(values.sum(axis=1, dtype=np.float64)).all()
    if finite:
        return
    bad = np.argwhere(~np.isfinite(values))
    if not len(bad):  # the sum overflowed, no value did
        return
    sample, unit = bad[0]
    named = sample if names is None else names[sample]
    raise ModulesError(
        f"Activations should be finite; at {units.hook_names[units.hook[unit]]!r}, index "
        f"{units.index[unit]}, sample {named} it is {values[sample, unit]}. Drop that sample, or "
        "run the model in a wider dtype (float32)."
    )
