"""Warnings of own categories that do not occur among the prompts': no selectivity without them."""

from collections.abc import Iterable, Sequence

import pandas as pd

from tl_modules.interventions.target import Target
from tl_modules.modules.module import Module
from tl_modules.runtime.call_warnings import warn_user
from tl_modules.tables.labels import (
    apart,
    column_hint,
    label_text,
    names_like_category,
    near_misses,
    quoted,
)
from tl_modules.tables.prompt_frames import categories_of

_Targets = Sequence[Target]


def sample_labels(targets: _Targets) -> list[list[object]]:
    """The categories of the samples that the targets were made from, a list for all modules."""
    samples = [target.samples for target in targets if isinstance(target, Module)]
    return [[label for frame in samples if "category" in frame for label in frame["category"]]]


def warn_own_categories(targets: _Targets, frame: pd.DataFrame, *, n_controls: int) -> None:
    """Warn of own categories that are not among the prompts', and of ties.

    Args:
        targets: Modules and other targets.
        frame: The prompts, as ``labelled`` returned them.
        n_controls: Without controls nobody tests selectivity, and only what looks like a slip of
            spelling causes a warning.
    """
    if not n_controls and not _is_spelt_alike(targets, frame):
        return
    none_in_common = no_common_category(targets, frame)
    if none_in_common:
        messages = [f"{none_in_common} Until then every selectivity is NaN."]
    else:
        messages = [_missing_for_some(targets, frame), _ties(targets, frame)]
    for message in filter(None, messages):
        warn_user(message)


def no_common_category(targets: _Targets, frame: pd.DataFrame) -> str | None:
    """The message if no target's own category is among the prompts'.

    Args:
        targets: Modules and other targets.
        frame: The prompts.

    Returns:
        Both lists, the labels that are spelt alike, and the remedy. None if a category is in
        common, or if neither side has categories: selectivity is then no question.
    """
    own, tested = _own(targets), _tested(frame)
    if set(own) & set(tested):
        return None
    modules = [target for target in targets if isinstance(target, Module)]
    if not own and not (modules and len(tested) > 1):
        return None
    of_prompts = f"the prompts' are {quoted(tested)}"
    if own and not tested:
        said = f"The own categories are {quoted(own)}; the prompts have none. "
        said += f"{column_hint(list(frame.columns))} to measure selectivity."
    elif own:
        remedy = "Use one spelling for both"
        remedy += ", or name the own category: modules.with_categories({0: ...})" if modules else ""
        said = f"The own categories are {quoted(own)}; {of_prompts}.{apart(own, tested)} {remedy}."
    else:
        hint = column_hint(list(modules[0].samples.columns))
        said = (
            f"The modules have no own category, since their samples have none; {of_prompts}. "
            f"{hint} before you collect, or name it: modules.with_categories({{0: ...}})."
        )
    return f"No module's own category is among the prompts'. {said}"


def _missing_for_some(targets: _Targets, frame: pd.DataFrame) -> str | None:
    """The message if some targets' own category is not among the prompts'."""
    tested = _tested(frame)
    missing = {
        target.label: own
        for target in targets
        if (own := label_text(target.category)) is not None and own not in tested
    }
    if not missing:
        return None
    shown = ", ".join(f"{label} ({own!r})" for label, own in missing.items())
    return (
        f"The own category of some modules is not among the prompts', so that their selectivity is "
        f"NaN: {shown}. The prompts' are {quoted(tested)}.{apart(missing.values(), tested)} Add "
        "prompts of it, or use one spelling."
    )


def _ties(targets: _Targets, frame: pd.DataFrame) -> str | None:
    """The message if several categories are equally frequent among a module's samples."""
    tied = [
        target
        for target in targets
        if isinstance(target, Module) and target.tied_categories and len(_tested(frame)) > 1
    ]
    if not tied:
        return None
    shown = "; ".join(
        f"{module.label} ({quoted(module.tied_categories)}: {module.category!r} is taken)"
        for module in tied
    )
    return (
        "The own category of some modules is a tie, and the first by name is taken: "
        f"{shown}. Say which you mean: modules.with_categories({{{tied[0].label}: "
        f"{tied[0].tied_categories[-1]!r}}})."
    )


def _is_spelt_alike(targets: _Targets, frame: pd.DataFrame) -> bool:
    """Whether an own category differs from a prompts' only in spelling, or the column's name."""
    own = _own(targets)
    if "category" not in frame.columns:
        return bool(own) and names_like_category(list(frame.columns)) != []
    return bool(near_misses(own, _tested(frame)))


def _own(targets: _Targets) -> list[str]:
    """The targets' own categories, each once, by name."""
    labels: Iterable[str | None] = (label_text(target.category) for target in targets)
    return sorted({label for label in labels if label is not None})


def _tested(frame: pd.DataFrame) -> list[str]:
    """The prompts' categories, each once; none without a column for them."""
    if "category" not in frame.columns:
        return []
    return list(dict.fromkeys(categories_of(frame).tolist()))
