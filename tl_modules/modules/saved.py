"""What a file keeps of a module set, and a set's fields from it."""

from dataclasses import asdict
from math import isnan, nan
from typing import TYPE_CHECKING, Any

import numpy as np

from tl_modules.activations.normalise import largest_normaliser, normaliser_arrays, read_normaliser
from tl_modules.activations.reading import Reading
from tl_modules.modules.objective import Objective
from tl_modules.modules.scored_labels import ScoredLabels
from tl_modules.modules.topic import Topic
from tl_modules.saving.checked_json import (
    checked_entries,
    checked_flag,
    checked_number,
    checked_text,
    checked_whole_number,
)
from tl_modules.tables.frames import frame_from_json, frame_to_json, n_rows
from tl_modules.units import Units

if TYPE_CHECKING:
    from tl_modules.modules.module_set import ModuleSet

ARRAYS = (
    "unit_labels",
    "sample_labels",
    "sample_scores",
    "unit_scores",
    "unit_means",
    "unit_runners_up",
    "content_means",
    "is_shared",
)
"""The fields of a module set that are arrays, or None."""


def parts_of(modules: "ModuleSet") -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """A JSON-ready header, and arrays by name."""
    header = {
        "units": modules.units.to_dict(),
        "samples": frame_to_json(modules.samples),
        "n_modules": modules.n_modules,
        # JSON has no NaN, which they are after an edit by hand.
        "objective": {
            name: None if isnan(value) else value
            for name, value in asdict(modules.objective).items()
        },
        "seed": modules.seed,
        "method": modules.method,
        "history": list(modules.history),
        "converged": modules.converged,
        "starts": None if modules.starts is None else frame_to_json(modules.starts),
        "model_name": modules.model_name,
        "reading": modules.reading.to_dict(),
        "normalisation": None if modules.normaliser is None else modules.normaliser.name,
        "topics": None if modules.topics is None else [topic.to_dict() for topic in modules.topics],
        "versions": modules.versions,
    }
    if modules.own_categories is not None:
        header["own_categories"] = list(modules.own_categories)
    if modules.shared_by_all is not None:
        header["shared_by_all"] = list(modules.shared_by_all)
    if modules.verdicts is not None:
        header["verdicts"] = list(modules.verdicts)
    if modules.verdict_sentence is not None:
        header["verdict_sentence"] = modules.verdict_sentence
    if modules.holds != "modules":
        header["holds"] = modules.holds
    if modules.scored_labels is not None:
        header["scored_labels"] = [labels and labels.to_dict() for labels in modules.scored_labels]
    arrays = {name: array for name in ARRAYS if (array := getattr(modules, name)) is not None}
    arrays |= normaliser_arrays(modules.normaliser)
    return header, arrays


def fields_of(header: dict[str, Any], arrays: dict[str, np.ndarray]) -> dict[str, Any]:
    """The fields of the module set that ``parts_of`` described.

    Raises:
        ModulesError: If the parts do not fit each other.
        TypeError: If a part has another type.
    """
    starts, topics, seed = header.get("starts"), header.get("topics"), header["seed"]
    categories, shared = header.get("own_categories"), header.get("shared_by_all")
    verdicts, labels = header.get("verdicts"), header.get("scored_labels")
    return {
        "units": Units.from_dict(header["units"], len(arrays["unit_labels"])),
        "samples": frame_from_json(header["samples"]),
        "n_modules": checked_whole_number(header["n_modules"]),
        "objective": Objective(
            **{k: nan if v is None else checked_number(v) for k, v in header["objective"].items()}
        ),
        "seed": None if seed is None else checked_whole_number(seed),
        "method": checked_text(header["method"]),
        "history": checked_entries(header["history"], checked_number),
        "converged": checked_flag(header["converged"]),
        "starts": None if starts is None else frame_from_json(starts),
        "model_name": checked_text(header["model_name"]),
        "reading": Reading.from_dict(header["reading"]),
        "normaliser": read_normaliser(header["normalisation"], arrays),
        "topics": None if topics is None else checked_entries(topics, Topic.from_dict),
        "own_categories": None
        if categories is None
        else checked_entries(categories, _optional_text),
        "shared_by_all": None if shared is None else checked_entries(shared, checked_flag),
        "verdicts": None if verdicts is None else checked_entries(verdicts, _optional_text),
        "verdict_sentence": _optional_text(header.get("verdict_sentence")),
        "scored_labels": None if labels is None else checked_entries(labels, _optional_labels),
        "holds": checked_text(header.get("holds", "modules")),
        "versions": {name: checked_text(value) for name, value in header["versions"].items()},
        **{name: arrays[name] for name in ARRAYS if name in arrays},
    }


def largest_shapes(header: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """The largest shapes of a file's arrays."""
    n_units, n_coordinates = Units.sizes(header["units"])
    n_samples = n_rows(header["samples"])
    lengths = (n_units, n_samples, n_samples, n_units, n_coordinates, n_units, n_coordinates)
    lengths += (n_units,)
    shapes = {name: (length,) for name, length in zip(ARRAYS, lengths, strict=True)}
    return shapes | largest_normaliser(n_units)


def _optional_text(value: Any) -> str | None:
    return None if value is None else checked_text(value)


def _optional_labels(value: Any) -> ScoredLabels | None:
    return None if value is None else ScoredLabels.from_dict(value)
