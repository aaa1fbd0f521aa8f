"""The prompts of a command's options that discovery did not see."""

import argparse
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from tl_modules.commands.options import prompts_named, say
from tl_modules.errors import ModulesError
from tl_modules.modules.module_set import ModuleSet
from tl_modules.tables.labels import column_hint
from tl_modules.tables.prompt_frames import labelled


def categorised_prompts(args: argparse.Namespace) -> pd.DataFrame:
    """Read the prompts that ``--prompts`` names, which should have categories.

    Raises:
        ModulesError: If they cannot be read or have no categories.
    """
    prompts = labelled(prompts_named(args.prompts, args.prompt_column, args.category_column))
    if "category" not in prompts:
        raise ModulesError(
            f"The prompts of {args.prompts!r} should have categories, because selectivity compares "
            f"categories. {column_hint(list(prompts.columns))}."
        )
    return prompts


def unseen(
    args: argparse.Namespace, prompts: pd.DataFrame, sets: Mapping[str, ModuleSet]
) -> pd.DataFrame:
    """The prompts that are not among any set's samples.

    Args:
        args: The command's options, for the message.
        prompts: The prompts.
        sets: The module sets by name; those without prompts are named on the screen.

    Raises:
        ModulesError: If none is left.
    """
    seen = set()
    for name, modules in sets.items():
        if "prompt" in modules.samples:
            seen |= set(modules.samples["prompt"])
        else:
            say(f"{name} holds no prompts, so it is unknown whether discovery saw these")
    new = prompts.loc[~prompts["prompt"].isin(list(seen))]
    if not len(new):
        raise ModulesError(
            f"--prompts should hold prompts that discovery did not see; it saw every prompt of "
            f"{args.prompts!r}. Name another file, or hold prompts out: with 'discover --held-out "
            "0.2' for a file that 'collect' wrote, or by collecting a store without them."
        )
    return new


def drawn(prompts: pd.DataFrame, sizes: Sequence[int], seed: int) -> list[pd.DataFrame]:
    """Draw parts of the prompts that share none, each with some prompts of every category.

    Args:
        prompts: The prompts, with ``category``.
        sizes: How many prompts of a category each part has at most; earlier parts come first.
        seed: Of the order. Files often sort prompts by length or difficulty within a category.

    Returns:
        The parts, in the order of the prompts.
    """
    mixed, number = _mixed(prompts, seed)
    parts, start = [], 0
    for size in sizes:
        parts.append(mixed.loc[(number >= start) & (number < start + size)].sort_index())
        start += size
    return parts


def halves(
    prompts: pd.DataFrame, per_category: int, seed: int
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Draw two halves of the prompts that share none, category by category.

    Args:
        prompts: The prompts, with ``category``. A prompt that occurs twice is taken once.
        per_category: How many prompts of a category both halves have together, at most. Of an odd
            number, the first half has one more.
        seed: Of the order.

    Returns:
        The halves, in the order of the prompts.

    Raises:
        ModulesError: If no category has two prompts.
    """
    mixed, number = _mixed(prompts.drop_duplicates("prompt"), seed)
    counts = Counter(mixed["category"])
    sizes = np.array([min(counts[name], per_category) for name in mixed["category"]])
    is_first = number < (sizes + 1) // 2
    is_second = ~is_first & (number < sizes)
    if not is_second.any():
        raise ModulesError(
            "The prompts that discovery did not see should have two or more of a category, for "
            f"two halves; there are {len(mixed)}, all of different categories. Name a larger file."
        )
    return mixed.loc[is_first].sort_index(), mixed.loc[is_second].sort_index()


def _mixed(prompts: pd.DataFrame, seed: int) -> tuple[pd.DataFrame, pd.Series]:
    """The prompts in random order, and the number of each in its category."""
    mixed = prompts.sample(frac=1, random_state=seed)
    return mixed, mixed.groupby("category").cumcount()
