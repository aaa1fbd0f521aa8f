"""Asking annotators: their names, their answers, and the labels among these."""

from collections.abc import Iterable, Mapping, Set
from numbers import Number
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Int
from tqdm.auto import tqdm

from tl_modules.errors import ModulesError, shown
from tl_modules.tables.labels import checked_labels, label_text, quoted, warn_spelling


def named_annotators(annotators: object) -> dict[str, Any]:
    """Return the annotators by name; a list's are numbered.

    Raises:
        ModulesError: If there is none, or they are neither in a mapping nor in a list.
    """
    if isinstance(annotators, list | tuple):
        annotators = {str(number): each for number, each in enumerate(annotators)}
    if not isinstance(annotators, Mapping):
        raise ModulesError(
            "annotators should be a list of annotators or a mapping of their names; got "
            f"{shown(annotators)}. Put them in a list."
        )
    strange = [name for name in annotators if not isinstance(name, str) or not name.strip()]
    if strange or not annotators:
        raise ModulesError(
            "annotators should hold at least one annotator, each with a text as name; got "
            f"{shown(strange[0]) if strange else 'none'}. Pass {{'rule': rule}}, for one."
        )
    return dict(annotators)


def answers_of(name: str, annotator: Any, texts: list[str], bar: tqdm) -> list[str | None]:
    """Return one annotator's answer to each prompt, as text; None where it abstains.

    Args:
        name: The annotator's name in messages.
        annotator: A function of a prompt's text, or its answers.
        texts: The prompts' texts.
        bar: Counts a function's answers.

    Raises:
        ModulesError: If it is neither, has another number of answers, or an answer is no label.
    """
    if callable(annotator):
        given = []
        for text in texts:
            given.append(annotator(text))
            bar.update()
    elif isinstance(annotator, str | bytes | Mapping | Set | pd.DataFrame) or not isinstance(
        annotator, Iterable
    ):
        raise ModulesError(
            f"An annotator should be a function of a prompt or a list of answers; {name!r} is "
            f"{shown(annotator)}. Pass the function itself, or one answer per prompt."
        )
    else:
        given = list(annotator)
    if len(given) != len(texts):
        raise ModulesError(
            f"An annotator should give one answer for each of the {len(texts)} prompts; {name!r} "
            f"has {len(given)}. Put None where it abstains."
        )
    for row, answer in enumerate(given):
        if not (answer is None or answer is pd.NA or isinstance(answer, str | Number | np.bool_)):
            raise ModulesError(
                "An annotator should answer with one label, a text or a number, or with None to "
                f"abstain; {name!r} answers {shown(answer)} to prompt {row}. Return the label "
                "alone."
            )
    return [label_text(answer) for answer in given]


def labels_of(answers: Mapping[str, list[str | None]], labels: Iterable[Any] | None) -> list[str]:
    """Check the labels that may be given, and the answers; by default all answers are labels.

    Args:
        answers: Each annotator's answers.
        labels: What the caller passed.

    Returns:
        The labels, each once; without ``labels`` in alphabetical order.

    Raises:
        ModulesError: If there are none, or an answer is not one of them.
    """
    given = {label for each in answers.values() for label in each if label is not None}
    if not given:
        raise ModulesError(
            "Some annotator should answer some prompt; all abstain everywhere. Return a label "
            "where one fits."
        )
    if labels is None:
        names = checked_labels(sorted(given))
        warn_spelling(names)
        return names
    if isinstance(labels, str | bytes | pd.DataFrame) or not isinstance(labels, Iterable):
        raise ModulesError(
            f"labels should be a list of labels; got {shown(labels)}. Leave it out to take those "
            "that are given."
        )
    listed = list(labels)
    if not all(isinstance(label, str | Number | np.bool_) for label in listed):
        raise ModulesError(
            f"labels should be texts or numbers; got {shown(listed)}. Name each label."
        )
    names = list(dict.fromkeys(checked_labels(listed)))
    for name, each in answers.items():
        for row, label in enumerate(each):
            if label is not None and label not in names:
                raise ModulesError(
                    f"Every answer should be one of the labels {quoted(names)}; {name!r} answers "
                    f"{shown(label)} to prompt {row}. Return the label alone, None to abstain, or "
                    "add it to labels."
                )
    return names


def counts_of(
    answers: Mapping[str, list[str | None]], names: list[str]
) -> Int[np.ndarray, "prompts annotators labels"]:
    """Return 1 where an annotator gave a prompt a label, and 0 elsewhere."""
    number = {name: at for at, name in enumerate(names)}
    codes = np.array(
        [[-1 if label is None else number[label] for label in each] for each in answers.values()]
    )
    return (codes.T[..., None] == np.arange(len(names))).astype(np.int64)
