"""Select or check the activations of the samples that modules were discovered on."""

from collections import defaultdict
from dataclasses import replace

import numpy as np
import pandas as pd
from jaxtyping import Int

from tl_modules.activations.matrix import ActivationMatrix
from tl_modules.activations.store import ActivationStore
from tl_modules.errors import ModulesError
from tl_modules.modules.module_set import ModuleSet
from tl_modules.tables.text import as_texts

_IDENTIFYING = ("prompt", "answer", "n_tokens")
"""Columns that a sample's activations depend on."""


def check_own_samples(modules: ModuleSet, acts: ActivationMatrix | ActivationStore) -> None:
    """Raise unless the activations have the samples that the modules' labels describe.

    Raises:
        ModulesError: If the number of samples or a prompt differs.
    """
    remedy = "Pass the matrix that the modules were discovered on."
    if len(acts.samples) != len(modules.samples):
        raise ModulesError(
            f"acts should hold the {len(modules.samples)} samples that the modules were discovered "
            f"on; they hold {len(acts.samples)}. {remedy}"
        )
    if "prompt" in acts.samples and "prompt" in modules.samples:
        both = (acts.samples, modules.samples)
        prompts = (as_texts(samples["prompt"]).to_numpy() for samples in both)
        differ = np.flatnonzero(np.not_equal(*prompts))
        if len(differ):
            raise ModulesError(
                "acts should hold the samples that the modules were discovered on, in the same "
                f"order; sample {differ[0]} differs. {remedy}"
            )


def own_activations(
    modules: ModuleSet, acts: ActivationMatrix | ActivationStore
) -> ActivationMatrix | ActivationStore:
    """Select the samples that the modules were discovered on from activations of more samples.

    ``tl-modules discover --held-out`` discovers on a part of a matrix, while later commands may get
    the whole matrix.

    Args:
        modules: The modules.
        acts: Activations of the modules' samples, and possibly of others.

    Returns:
        ``acts`` itself if it has equally many samples; otherwise a matrix of the modules' samples
        in the modules' order.

    Raises:
        ModulesError: If a sample is missing, or if several samples match and their activations
            differ.
    """
    samples = modules.samples
    if len(acts.samples) <= len(samples) or "prompt" not in samples or "prompt" not in acts.samples:
        check_own_samples(modules, acts)
        return acts
    rows, doubtful = _rows_of(samples, acts.samples)
    for first, others in doubtful:
        # Equal prompts have equal activations up to the rounding of different batches, so any of
        # them will do. Different activations mean that another column tells the samples apart.
        values = _matrix(acts, [first, *others]).values
        if not np.allclose(values[1:], values[0], rtol=1e-3, atol=1e-5 * np.abs(values[0]).max()):
            raise ModulesError(
                "acts should identify the samples that the modules were discovered on; its samples "
                f"{first} and {others[0]} differ in their activations alone. Pass "
                "acts.select(rows) with the rows that the modules were discovered on."
            )
    return replace(_matrix(acts, rows), samples=samples)


def _matrix(
    acts: ActivationMatrix | ActivationStore, rows: list[int] | Int[np.ndarray, " rows"]
) -> ActivationMatrix:
    numbers = np.asarray(rows)
    return acts.matrix(numbers) if isinstance(acts, ActivationStore) else acts.select(numbers)


def _rows_of(
    set_samples: pd.DataFrame, all_samples: pd.DataFrame
) -> tuple[Int[np.ndarray, " rows"], list[tuple[int, list[int]]]]:
    """Find the row of each of a set's samples in a larger table.

    Returns:
        The rows; and, for each sample that the larger table holds more often than the set, the
        first row and the other candidates.

    Raises:
        ModulesError: If a sample is missing.
    """
    places: dict[tuple[str, ...], list[int]] = defaultdict(list)
    shared = [name for name in _IDENTIFYING if name in set_samples and name in all_samples]
    for row, key in enumerate(_keys(all_samples, shared)):
        places[key].append(row)
    rows, taken = np.empty(len(set_samples), dtype=np.int64), defaultdict(int)
    keys = _keys(set_samples, shared)
    for number, key in enumerate(keys):
        if taken[key] == len(places[key]):
            raise ModulesError(
                f"acts should hold the samples that the modules were discovered on; sample "
                f"{number} is missing. Pass the matrix that the modules were discovered on, or a "
                "larger one."
            )
        rows[number] = places[key][taken[key]]
        taken[key] += 1
    doubtful = [
        (places[key][0], places[key][1:]) for key, n in taken.items() if n < len(places[key])
    ]
    return rows, doubtful


def _keys(samples: pd.DataFrame, columns: list[str]) -> list[tuple[str, ...]]:
    """Return one key per sample, made of the given columns."""
    parts = [samples[name].where(samples[name].notna(), "") for name in columns]
    return list(zip(*map(as_texts, parts), strict=True))
