"""A guess from outside of which modules drive many others: the question, and its answer parsed."""

import re
from collections.abc import Callable, Sequence

import numpy as np

from tl_modules.errors import ModulesError, shown
from tl_modules.modules.module import Module
from tl_modules.tables.text import shortened, visible, without_halves

Propose = Callable[[str], str]
"""From the question to an answer such as ``"3, 0, 7"``: any language model, rule or person."""

_LONGEST_NAME = 80
"""The largest number of characters of a module's name in the question."""

_ANSWER = re.compile(r"\s*[0-9]{1,9}(\s*,\s*[0-9]{1,9})*\s*")


def question_about(modules: Sequence[Module]) -> str:
    """The question that a language model is asked: the modules, and how to answer.

    Args:
        modules: The modules; each is described by its topic's label or its category, its size and
            its layers.

    Returns:
        Text of one line per module, between a task and the form of the answer.
    """
    return "\n".join(
        [
            "The neurons of a transformer language model were split into modules. Each line gives "
            "a module's number, what drives it, its number of units and its mean layer:",
            "",
            *(_line(module) for module in modules),
            "",
            "One module at a time is replaced by its activations on another prompt, and the change "
            "of all other modules is measured. Which modules should be replaced first, because "
            "they change most others? Layers run from early to late, and a module changes only "
            "what lies in later layers.",
            "Answer with module numbers alone, separated by commas, the most promising first. Leave"
            " out modules that you cannot judge.",
        ]
    )


def _line(module: Module) -> str:
    name = module.title
    said = "not known" if name is None else visible(without_halves(name)).replace("\n", " ")
    layers = np.array(module.units.layers)[module.units.hook]
    return (
        f"{module.label}: {shortened(said, _LONGEST_NAME)}; {module.n_units} units; mean layer "
        f"{layers.mean():.1f}"
    )


def guess_from(propose: Propose, question: str, labels: Sequence[int]) -> tuple[str, list[int]]:
    """Ask, and parse the answer.

    Args:
        propose: Who is asked.
        question: What ``question_about`` returned.
        labels: The modules' labels.

    Returns:
        The answer, and the labels in it.

    Raises:
        ModulesError: If the answer is no text, is not a list of numbers alone, or names a module
            that does not exist or one twice.
    """
    try:
        answer = propose(question)
    except Exception as error:
        error.add_note("propose raised this when it was asked which modules to patch first.")
        raise
    return answer, parsed_guess(answer, labels)


def parsed_guess(answer: object, labels: Sequence[int]) -> list[int]:
    """The labels in an answer, in its order.

    Raises:
        ModulesError: See ``guess_from``.

    >>> parsed_guess("7, 0", labels=[0, 3, 7])
    [7, 0]
    """
    form = "propose should return module numbers separated by commas, such as '3, 0'"
    if not isinstance(answer, str) or not _ANSWER.fullmatch(answer):
        raise ModulesError(
            f"{form}; it returned {shown(answer)}. Cut everything else from the answer."
        )
    found = [int(number) for number in answer.split(",")]
    unknown = [label for label in found if label not in labels]
    if unknown:
        raise ModulesError(
            f"{form}; there is no module {unknown[0]}. Modules are {labels[0]} to {labels[-1]}."
            if list(labels) == list(range(labels[0], labels[-1] + 1))
            else f"{form}; there is no module {unknown[0]}. The question lists the modules."
        )
    twice = [label for place, label in enumerate(found) if label in found[:place]]
    if twice:
        raise ModulesError(
            f"{form}, each once; it named module {twice[0]} twice. Keep the first of the two."
        )
    return found
