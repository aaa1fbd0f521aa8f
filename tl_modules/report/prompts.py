"""The samples as a page searches them."""

import json
from dataclasses import dataclass
from typing import Any

import numpy as np

from tl_modules.modules.module_set import ModuleSet
from tl_modules.tables.labels import label_text
from tl_modules.tables.text import shortened, visible

_LONGEST = 400
_SHORTEST = 60


@dataclass(frozen=True)
class PromptRows:
    """As many samples as fit."""

    rows: list[list[Any]]
    """Module, category, score, text; strongest first in each module."""

    n_all: int
    """How many there are."""

    longest: int
    """Texts end after so many characters."""


def prompt_rows(modules: ModuleSet, n_bytes: int) -> PromptRows:
    """The samples' prompts, shortened, then left out from the weakest, to fit into so many bytes.

    Args:
        modules: The modules.
        n_bytes: How long the rows may be as JSON.
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
    """Bytes as JSON in a page, where ``<`` takes six."""
    text = json.dumps(rows, separators=(",", ":"))
    return len(text) + 5 * text.count("<")
