"""Edits of a module set by hand: merge, split, move units, rename. Each makes a new set."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
from jaxtyping import Int

from tl_modules.errors import ModulesError
from tl_modules.modules.labels import BACKGROUND
from tl_modules.modules.module import Module
from tl_modules.modules.module_set import ModuleSet
from tl_modules.modules.objective import Objective
from tl_modules.modules.topic import Topic, topic_label
from tl_modules.tables.text import shortened, visible

LONGEST_NAME = 200
"""Characters of a name that a user gives a module."""

_Value = TypeVar("_Value")
_UNKNOWN = Objective(float("nan"), float("nan"), float("nan"))
_NOTE = "The module was edited by hand: find its topic again with tlm.with_topics."
_N_PROMPTS = 5


@dataclass(frozen=True, eq=False)
class Edit:
    """One step: the new set, what was done, and where each module went."""

    modules: ModuleSet
    """The new set."""

    line: str
    """What was done, for the history."""

    target: tuple[int, ...]
    """The new number of each module of the old set."""


def merged(modules: ModuleSet, numbers: Sequence[int]) -> Edit:
    """Merge modules into one, in the place of the first.

    Args:
        modules: The set.
        numbers: The modules to merge, two or more.

    Raises:
        ModulesError: If there are fewer than two, or fewer than two modules would be left.
    """
    members = sorted({modules[k].label for k in numbers})
    if len(members) < 2:
        raise ModulesError(
            f"Merging needs two modules or more; got {len(members)}. Choose more modules."
        )
    if modules.n_modules - len(members) + 1 < 2:
        raise ModulesError(
            "Merging should leave at least two modules; this would leave one. Merge fewer."
        )
    kept = [k for k in range(modules.n_modules) if k not in members[1:]]
    first = kept.index(members[0])
    parents = [members if k == members[0] else [k] for k in kept]
    target = tuple(first if k in members else kept.index(k) for k in range(modules.n_modules))
    found = _relabelled(
        modules,
        np.append(target, BACKGROUND)[modules.unit_labels],
        np.array(target)[modules.sample_labels],
        parents,
        changed={first},
        units=None,
    )
    names = " and ".join(named(modules[k]) for k in members)
    return Edit(found, f"merged {names} into module {first}", target)


def split(modules: ModuleSet, k: int, units: Int[np.ndarray, " chosen"]) -> Edit:
    """Make some units of a module a new module, the last of the set.

    Args:
        modules: The set.
        k: The module. It keeps its samples and its other units.
        units: Positions, in ``modules.units``, of the units of the new module, which has no
            samples of its own and the category of the old one.

    Raises:
        ModulesError: If a unit is not in the module, or none or all of its units are chosen.
    """
    module = modules[k]
    chosen = np.unique(units)
    own = np.flatnonzero(modules.unit_labels == module.label)
    if not np.isin(chosen, own).all():
        raise ModulesError(f"Units to split off should be in module {k}. Choose some of its units.")
    if not 0 < len(chosen) < len(own):
        raise ModulesError(
            f"A split should leave units on both sides; module {k} has {len(own):,}, and "
            f"{len(chosen):,} would go. Choose fewer, or more."
        )
    new = modules.n_modules
    labels = modules.unit_labels.copy()
    labels[chosen] = new
    parents = [*([number] for number in range(new)), [module.label]]
    changed = {module.label, new}
    found = _relabelled(modules, labels, modules.sample_labels, parents, changed, chosen)
    own_categories = list(found.own_categories or [None] * found.n_modules)
    own_categories[new] = module.category
    found = replace(found, own_categories=tuple(own_categories))
    line = f"split {len(chosen):,} units off {named(module)}: they are module {new}"
    return Edit(found, line, tuple(range(new)))


def moved(modules: ModuleSet, units: Int[np.ndarray, " chosen"], to: int | None) -> Edit:
    """Move units into a module, or out of all modules.

    Args:
        modules: The set.
        units: Positions of the units in ``modules.units``.
        to: The module; None for none.

    Raises:
        ModulesError: If there is no such module, all units are there already, or a unit was set
            aside as shared.
    """
    label = BACKGROUND if to is None else modules[to].label
    chosen = np.unique(units)
    chosen = chosen[modules.unit_labels[chosen] != label]
    if not len(chosen):
        raise ModulesError("There is no unit to move: choose units of another module.")
    if label != BACKGROUND and modules.is_shared is not None and modules.is_shared[chosen].any():
        raise ModulesError(
            "Units that all modules share belong to no module, and cannot be moved into one. "
            "Choose other units."
        )
    labels = modules.unit_labels.copy()
    sources = set(labels[chosen].tolist()) - {BACKGROUND}
    labels[chosen] = label
    parents = [[number] for number in range(modules.n_modules)]
    changed = sources | ({label} - {BACKGROUND})
    found = _relabelled(modules, labels, modules.sample_labels, parents, changed, chosen)
    origin = " and ".join(named(modules[k]) for k in sorted(sources)) or "no module"
    place = "no module" if label == BACKGROUND else named(modules[label])
    line = f"moved {len(chosen):,} {_plural(len(chosen))} from {origin} to {place}"
    return Edit(found, line, tuple(range(modules.n_modules)))


def renamed(modules: ModuleSet, k: int, name: str) -> Edit:
    """Name a module: the name becomes its topic's label. Its own category stays.

    Args:
        modules: The set.
        k: The module.
        name: The name.

    Raises:
        ModulesError: If the name is empty, too long, or that of another module.
    """
    module = modules[k]
    wanted = name.strip()
    if not 0 < len(wanted) <= LONGEST_NAME:
        raise ModulesError(
            f"A module's name should have 1 to {LONGEST_NAME} characters; got {len(wanted)}. "
            "Type another name."
        )
    topics = list(modules.topics or _plain_topics(modules))
    others = {topic.label for number, topic in enumerate(topics) if number != module.label}
    if wanted in others:
        raise ModulesError(f"Another module has the name {wanted!r:.80}. Type another name.")
    topics[module.label] = replace(topics[module.label], label=wanted, label_is_given=True)
    scored = modules.scored_labels
    if scored is not None:  # the scores are of another label
        scored = tuple(None if number == module.label else of for number, of in enumerate(scored))
    found = replace(modules, topics=tuple(topics), scored_labels=scored)
    line = f"renamed {named(module)} to {_short(wanted)}"
    return Edit(found, line, tuple(range(modules.n_modules)))


def _relabelled(
    modules: ModuleSet,
    unit_labels: Int[np.ndarray, " _units"],
    sample_labels: Int[np.ndarray, " _samples"],
    parents: Sequence[Sequence[int]],
    changed: Collection[int],
    units: Int[np.ndarray, " chosen"] | None,
) -> ModuleSet:
    """The set with other labels.

    Args:
        modules: The set.
        unit_labels: Each unit's new label.
        sample_labels: Each sample's new label.
        parents: Of each new module: the old modules that it comes from.
        changed: The new modules with other units or samples than before. What was measured of them
            is no longer known: scores, verdicts, scored labels, tokens of their topics.
        units: The units that changed their module; None if topics changed. A unit's score compares
            the means of topics, so that no score is then known.
    """
    firsts = [of_one[0] for of_one in parents]
    stale = np.isin(sample_labels, list(changed))
    found = replace(
        modules,
        unit_labels=unit_labels.astype(np.int64),
        sample_labels=sample_labels.astype(np.int64),
        n_modules=len(parents),
        objective=_UNKNOWN,
        sample_scores=np.where(stale, np.nan, modules.sample_scores),
        unit_scores=_without(modules.unit_scores, units, np.nan),
        unit_runners_up=_without(modules.unit_runners_up, units, BACKGROUND),
        history=(),
        converged=False,
        starts=None,
        topics=None,
        own_categories=_own_categories(modules, parents),
        shared_by_all=None
        if modules.shared_by_all is None
        else tuple(k not in changed and modules.shared_by_all[at] for k, at in enumerate(firsts)),
        verdicts=_of_unchanged(modules.verdicts, firsts, changed),
        verdict_sentence=None,  # it counts the verdicts of all modules
        scored_labels=_of_unchanged(modules.scored_labels, firsts, changed),
    )
    if modules.topics is None:
        return found
    topics = [modules.topics[at] for at in firsts]
    labels = {topic.label for k, topic in enumerate(topics) if k not in changed}
    for k in sorted(changed):
        label = " + ".join(modules.topics[at].label for at in parents[k])
        label = shortened(label, LONGEST_NAME - len(" (000)"))
        topics[k] = _edited_topic(found[k], topics[k], label, labels)
        labels.add(topics[k].label)
    return replace(found, topics=tuple(topics))


def _of_unchanged(
    values: tuple[_Value | None, ...] | None, firsts: Sequence[int], changed: Collection[int]
) -> tuple[_Value | None, ...] | None:
    """What was said of each module, None where the module changed."""
    if values is None:
        return None
    return tuple(None if k in changed else values[at] for k, at in enumerate(firsts))


def _own_categories(
    modules: ModuleSet, parents: Sequence[Sequence[int]]
) -> tuple[str | None, ...] | None:
    """The categories that the user gave, where all parents of a module have the same."""
    if modules.own_categories is None:
        return None
    found = []
    for of_one in parents:
        given = {modules.own_categories[k] for k in of_one}
        found.append(given.pop() if len(given) == 1 else None)
    return tuple(found)


def _edited_topic(module: Module, before: Topic, label: str, others: Collection[str]) -> Topic:
    """What is still true of a topic after its module changed."""
    while label in others:
        label = f"{label} ({module.label})"
    is_given = before.label_is_given and label == before.label
    return Topic(
        label=label,
        categories=module.category_shares,
        words=before.words,
        prompts=_prompts(module) or before.prompts,
        notes=(_NOTE,),
        label_is_given=is_given,
    )


def _plain_topics(modules: ModuleSet) -> list[Topic]:
    """Topics of modules without any: named by their category, with the strongest prompts."""
    topics: list[Topic] = []
    for module in modules:
        label = topic_label(module.category_title, (), module.label, [t.label for t in topics])
        topics.append(Topic(label, module.category_shares, (), _prompts(module)))
    return topics


def _prompts(module: Module) -> tuple[str, ...]:
    if "prompt" not in module.samples:
        return ()
    return tuple(map(str, module.samples["prompt"].head(_N_PROMPTS)))


def _without(
    values: np.ndarray | None, units: Int[np.ndarray, " chosen"] | None, missing: float | int
) -> np.ndarray | None:
    """Values of the units, without those of some units, or of none if these are not known."""
    if values is None or units is None:
        return None
    found = values.copy()
    found[units] = missing
    return found


def named(module: Module) -> str:
    """A module's number and name, in words."""
    title = "" if module.title is None else f" ({_short(module.title)})"
    return f"module {module.label}{title}"


def _short(name: str) -> str:
    return shortened(visible(name), 60)


def _plural(n: int) -> str:
    return "unit" if n == 1 else "units"
