"""Modules along one long text that changes its topic six times.

    python -m benchmarks.along_text --figure docs/images/along-text.png

Modules are discovered from a few of the shipped prompts of each category. The text is other prompts
of each category, one category after the other. Printed is each module's mean activity in each
section, by its mean over the whole text; the section of the module's own category is starred.
"""

import argparse
from pathlib import Path

import numpy as np
import pandas as pd

import tl_modules as tlm
from benchmarks.neighbours import draw
from tl_modules.data import load_prompts
from tl_modules.data.models import load_model


def main() -> None:
    """Print the table, and draw the text."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="demo")
    parser.add_argument("--modules", type=int, default=7)
    parser.add_argument("--per-category", type=int, default=8, help="prompts for discovery")
    parser.add_argument("--in-text", type=int, default=20, help="other prompts of each, as text")
    parser.add_argument("--chunk-tokens", type=int, default=512)
    parser.add_argument("--aggregate-over", type=int, default=32)
    parser.add_argument("--figure", type=Path)
    args = parser.parse_args()
    model, prompts = load_model(args.model), load_prompts()
    number = prompts.groupby("category").cumcount()
    seen = prompts[number < args.per_category]
    modules = tlm.discover(tlm.collect(model, seen, max_tokens=64), args.modules)
    in_text = number.between(args.per_category, args.per_category + args.in_text - 1)
    others = pd.DataFrame(prompts[in_text])
    text, sections = long_text(model, others)
    values = tlm.token_values(
        model,
        modules,
        [text],
        chunk_tokens=args.chunk_tokens,
        aggregate_over=args.aggregate_over,
    )
    table = by_section(values, sections)
    own = {module.label: module.category for module in modules}
    print(f"{len(values):,} windows of {args.aggregate_over} tokens, {len(sections)} sections")
    print(starred(table, own).to_string())
    with_own = {label: name for label, name in own.items() if name in table.columns}
    first = [table.loc[label].idxmax() == name for label, name in with_own.items()]
    print(f"{sum(first)} of {len(first)} modules are most active in their own category's section")
    if args.figure is not None:
        draw(tlm.plots.plot_along_text(values, modules, sections=sections), args.figure)


def long_text(model: tlm.HookedModel, prompts: pd.DataFrame) -> tuple[str, dict[str, int]]:
    """All prompts as one text, category after category, and where each category begins.

    A category begins with the line breaks before its first prompt.
    """
    text, sections = "", {}
    for category, some in prompts.groupby("category", sort=False)["prompt"]:
        # The text ends without a line break, which would be another token before a further text.
        sections[str(category)] = model.to_tokens(text, truncate=False).shape[1] if text else 0
        text += ("\n\n" if text else "") + "\n\n".join(some)
    return text, sections


def by_section(values: pd.DataFrame, sections: dict[str, int]) -> pd.DataFrame:
    """Each module's mean activity in each section, by its mean over the text.

    A window counts where it begins.
    """
    starts = values.index.get_level_values("position").to_numpy()
    borders = list(sections.values())
    counted = ~values["special"].to_numpy()
    names = np.array(list(sections))[np.searchsorted(borders, starts[counted], side="right") - 1]
    numbers = values.loc[counted].drop(columns=["token", "special"])
    means = pd.DataFrame(numbers.groupby(names).mean() / numbers.mean())
    return means.T.reindex(columns=list(sections))


def starred(table: pd.DataFrame, own: dict[int, str | None]) -> pd.DataFrame:
    """The table as text, with a star at each module's own category."""
    shown = {
        category: [
            f"{value:.2f}" + ("*" if own[label] == category else " ")
            for label, value in zip(own, table[category], strict=True)
        ]
        for category in table.columns
    }
    return pd.DataFrame(shown, index=table.index)


if __name__ == "__main__":
    main()
