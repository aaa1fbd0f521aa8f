"""The activations of the samples that modules were discovered on, and of no others."""

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

_TELLING = ("prompt", "answer", "n_tokens")
"""Columns that a sample's activations depend on."""


def check_own_samples(modules: ModuleSet, acts: ActivationMatrix | ActivationStore) -> None:
    """Refuse activations of other samples than the modules' labels are of.

    Raises:
        ModulesError: If their number, or a prompt, differs.
    """
    remedy = "Pass the matrix that the modules were discovered on."
    if len(acts.samples) != len(modules.samples):
        raise ModulesError(
            f"acts should be of the modules' own {len(modules.samples)} samples; they are of "
            f"{len(acts.samples)}. {remedy}"
        )
    if "prompt" in acts.samples and "prompt" in modules.samples:
        both = (acts.samples, modules.samples)
        prompts = (as_texts(samples["prompt"]).to_numpy() for samples in both)
        differ = np.flatnonzero(np.not_equal(*prompts))
        if len(differ):
            raise ModulesError(
                "acts should be of the modules' own samples in their order; sample "
                f"{differ[0]} is another. {remedy}"
            )


def own_activations(
    modules: ModuleSet, acts: ActivationMatrix | ActivationStore
) -> ActivationMatrix | ActivationStore:
    """The activations of the modules' own samples, out of those of more samples.

    ``tl-modules discover --held-out`` discovers on a part of a matrix; what is asked of the modules
    afterwards may be given the whole.

    Args:
        modules: The modules.
        acts: Activations of their samples, and maybe of others.

    Returns:
        ``acts`` itself where it has as many samples; else a matrix of the modules' own, in their
        order.

    Raises:
        ModulesError: If a sample is missing, or it cannot be told which of several it is.
    """
    samples = modules.samples
    if len(acts.samples) <= len(samples) or "prompt" not in samples or "prompt" not in acts.samples:
        check_own_samples(modules, acts)
        return acts
    rows, doubtful = _rows_of(samples, acts.samples)
    for first, others in doubtful:
        # Equal prompts have equal activations, but for the rounding of other batches.
        values = _matrix(acts, [first, *others]).values
        if not np.allclose(values[1:], values[0], rtol=1e-3, atol=1e-5 * np.abs(values[0]).max()):
            raise ModulesError(
                f"acts should tell the modules' own samples from others; its samples {first} and "
                f"{others[0]} are alike but for their activations. Pass acts.select(rows) of the "
                "samples that the modules were discovered on."
            )
    return replace(_matrix(acts, rows), samples=samples)


def _matrix(
    acts: ActivationMatrix | ActivationStore, rows: list[int] | Int[np.ndarray, " rows"]
) -> ActivationMatrix:
    chosen = np.asarray(rows)
    return acts.matrix(chosen) if isinstance(acts, ActivationStore) else acts.select(chosen)


def _rows_of(
    own: pd.DataFrame, all_samples: pd.DataFrame
) -> tuple[Int[np.ndarray, " rows"], list[tuple[int, list[int]]]]:
    """Where each of a set's samples stands among others.

    Returns:
        The rows; and, of samples that stand there more often than in the set, the row taken and the
        rows that may be meant as well.

    Raises:
        ModulesError: If one is not there.
    """
    places: dict[tuple[str, ...], list[int]] = defaultdict(list)
    shared = [name for name in _TELLING if name in own and name in all_samples]
    for row, key in enumerate(_keys(all_samples, shared)):
        places[key].append(row)
    rows, taken = np.empty(len(own), dtype=np.int64), defaultdict(int)
    keys = _keys(own, shared)
    for number, key in enumerate(keys):
        if taken[key] == len(places[key]):
            raise ModulesError(
                f"acts should hold the modules' own samples; sample {number} is not among them. "
                "Pass the matrix that the modules were discovered on, or a larger one."
            )
        rows[number] = places[key][taken[key]]
        taken[key] += 1
    doubtful = [
        (places[key][0], places[key][1:]) for key, n in taken.items() if n < len(places[key])
    ]
    return rows, doubtful


def _keys(samples: pd.DataFrame, columns: list[str]) -> list[tuple[str, ...]]:
    """What tells each sample from others."""
    parts = [samples[name].where(samples[name].notna(), "") for name in columns]
    return list(zip(*map(as_texts, parts), strict=True))
