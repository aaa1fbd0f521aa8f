"""The samples as a page searches them."""

import json
from dataclasses import dataclass
from typing import Any

from tl_modules.modules import ModuleSet

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
    ranked = [
        (rank, row)
        for module in modules
        for rank, row in enumerate(module.samples.to_dict(orient="records"))
        for row in [row | {"module": module.label}]
    ]
    longest = _LONGEST
    rows = [_row(row, longest) for _, row in ranked]
    while _size(rows) > n_bytes and longest > _SHORTEST:
        longest = max(longest // 2, _SHORTEST)
        rows = [_row(row, longest) for _, row in ranked]
    kept = sorted(range(len(rows)), key=lambda number: ranked[number][0])
    while kept and _size([rows[number] for number in kept]) > n_bytes:
        kept = kept[: int(0.9 * len(kept))]
    return PromptRows([rows[number] for number in sorted(kept)], len(samples), longest)


def _row(sample: dict[str, Any], longest: int) -> list[Any]:
    text = str(sample["prompt"])
    short = text if len(text) <= longest else text[: longest - 1] + "…"
    category = sample.get("category")
    named = "" if category is None or category != category else str(category)
    return [sample["module"], named, round(float(sample["score"]), 3), short]


def _size(rows: list[list[Any]]) -> int:
    """Bytes as JSON in a page, where ``<`` takes six."""
    text = json.dumps(rows, separators=(",", ":"))
    return len(text) + 5 * text.count("<")
