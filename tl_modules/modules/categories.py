"""Categories that the user gives modules, in place of the most frequent one of their samples."""

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from tl_modules.errors import ModulesError, check_type
from tl_modules.modules.topic import topic_label
from tl_modules.tables.labels import label_text

if TYPE_CHECKING:
    from tl_modules.modules.module_set import ModuleSet


def given_category(category: object) -> str:
    """Convert a category that a user gave a module to text.

    Raises:
        ModulesError: If it is empty.
    """
    text = label_text(category)
    if text is None:
        raise ModulesError(
            f"A module's own category should be a text; got {category!r}. Name one of the prompts' "
            "categories."
        )
    return text


def recategorised(modules: "ModuleSet", categories: Mapping[int, str | None]) -> "ModuleSet":
    """What ``ModuleSet.with_categories`` returns: own categories, and topics' labels after them.

    Raises:
        ModulesError: If there is no such module, or a category is empty.
    """
    check_type(
        categories,
        Mapping,
        "categories should be a mapping of modules' numbers to their own categories",
        "Pass {0: 'math'}, for one.",
    )
    given = list(modules.own_categories or [None] * modules.n_modules)
    changed = [modules[k].label for k in categories]  # refused if there is no such module
    for k, category in zip(changed, categories.values(), strict=True):
        given[k] = None if category is None else given_category(category)
    flags = modules.shared_by_all
    if flags is not None:  # flags and verdicts compare with the own category
        flags = tuple(flag and k not in changed for k, flag in enumerate(flags))
    verdicts = modules.verdicts
    if verdicts is not None:
        verdicts = tuple(None if k in changed else said for k, said in enumerate(verdicts))
    sentence = None if changed else modules.verdict_sentence
    labels = modules.scored_labels
    if labels is not None:  # the category is a candidate, and was scored as it was
        labels = tuple(None if k in changed else said for k, said in enumerate(labels))
    found = replace(
        modules,
        own_categories=tuple(given),
        shared_by_all=flags,
        verdicts=verdicts,
        verdict_sentence=sentence,
        scored_labels=labels,
    )
    if modules.topics is None:
        return found
    topics = list(modules.topics)
    for k in changed:
        others = [topic.label for at, topic in enumerate(topics) if at != k]
        label = topic_label(found[k].category_name, topics[k].words, k, others)
        topics[k] = replace(topics[k], label=label)
    return replace(found, topics=tuple(topics))
