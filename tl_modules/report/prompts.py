"""Prepare the samples for the page's search, within a limit of bytes."""

import json
from dataclasses import dataclass
from typing import Any

import numpy as np

from tl_modules.modules.module_set import ModuleSet
from tl_modules.tables.labels import label_text
from tl_modules.tables.text import shortened, visible

_LONGEST = 400  # characters of a prompt if all fit
_SHORTEST = 60  # characters below which prompts are left out instead


@dataclass(frozen=True)
class PromptRows:
    """The samples that fit into the page."""

    rows: list[list[Any]]
    """Module, category, score and text of each sample; strongest first in each module."""

    n_all: int
    """The number of all samples, shown or not."""

    longest: int
    """The largest number of characters of a text."""


def prompt_rows(modules: ModuleSet, n_bytes: int) -> PromptRows:
    """Fit the samples' prompts into a number of bytes: shorten them, then leave out the weakest.

    Args:
        modules: The modules.
        n_bytes: The largest size of the rows as JSON.
    """
    samples = modules.samples
    if "prompt" not in samples:
        return PromptRows([], 0, _LONGEST)
    rows, ranks = [], []
    score_column = modules.score_column
    for module in modules:
        for rank, sample in enumerate(module.samples.to_dict(orient="records")):
            rows.append(_row(module.label, sample, score_column))
            ranks.append(rank)
    longest = _LONGEST
    while _size(rows) > n_bytes and longest > _SHORTEST:
        longest = max(longest // 2, _SHORTEST)
        rows = [[*row[:3], shortened(row[3], longest)] for row in rows]
    # By rank within the module: every module keeps its strongest prompts.
    kept = sorted(range(len(rows)), key=lambda number: ranks[number])
    while kept and _size([rows[number] for number in kept]) > n_bytes:
        kept = kept[: int(0.9 * len(kept))]
    return PromptRows([rows[number] for number in sorted(kept)], len(samples), longest)


def _row(module: int, sample: dict[str, Any], score_column: str) -> list[Any]:
    category, score = label_text(sample.get("category")), float(sample[score_column])
    return [
        module,
        "" if category is None else shortened(visible(category), 40),
        round(score, 3) if np.isfinite(score) else None,  # JSON has no NaN
        shortened(visible(str(sample["prompt"])), _LONGEST),
    ]


def _size(rows: list[list[Any]]) -> int:
    """Return the rows' bytes as JSON in the page, where ``<`` is escaped to six characters."""
    as_json = json.dumps(rows, separators=(",", ":"))
    return len(as_json) + 5 * as_json.count("<")
