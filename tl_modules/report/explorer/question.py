"""What is asked of modules: what becomes of which units, on which prompt."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from jaxtyping import Int

from tl_modules.errors import ModulesError, check_at_least, check_choice, check_type, shown
from tl_modules.modules.module_set import ModuleSet
from tl_modules.report.explorer.edits import named
from tl_modules.runtime.arguments import check_argument
from tl_modules.tables.text import shortened, visible

Kind = Literal["ablate", "scale", "patch"]
"""``ablate``: the units' activations become their means. ``scale``: they are multiplied by a
factor. ``patch``: they become those of another prompt of as many tokens."""

KINDS: tuple[Kind, ...] = ("ablate", "scale", "patch")
LARGEST_FACTOR = 100.0
MOST_TOKENS = 200

_LAST_CONTROL = 2**32 - 1
_N_NAMED = 4  # modules that a sentence names
_LONGEST_PROMPT = 80  # characters of a prompt in a sentence


@dataclass(frozen=True)
class Question:
    """What is done to which modules, on which prompt."""

    prompt: str = ""
    """The prompt; empty for none."""

    chosen: tuple[int, ...] = (0,)
    """The modules that are changed together."""

    kind: Kind = "ablate"
    """What becomes of their units."""

    factor: float = 0.0
    """The factor of ``"scale"``."""

    other_prompt: str = ""
    """The prompt that ``"patch"`` takes values from."""

    core_size: int | None = None
    """How many of a single module's units are changed, first in its ranking; None for all."""

    n_new_tokens: int = 0
    """How many tokens the model writes after the prompt; 0 for none."""

    control: int = 0
    """The number of the random control."""


@dataclass(frozen=True, eq=False)
class Asked:
    """A question with the set that it is asked of: what an answer belongs to."""

    question: Question
    """The question."""

    modules: ModuleSet
    """The set."""

    units: Int[np.ndarray, " changed"]
    """The changed units' positions in ``modules.units``."""

    def is_like(self, other: "Asked") -> bool:
        """Whether another one has the same answer.

        Names and numbers of modules do not matter; the chosen modules' units do.
        """
        return self._key() == other._key()

    def _key(self) -> tuple[Question, bytes, frozenset[bytes]]:
        """What decides the answer."""
        question, labels = self.question, self.modules.unit_labels
        used = replace(
            question,
            chosen=(),
            core_size=None,
            factor=question.factor if question.kind == "scale" else 0.0,
            other_prompt=question.other_prompt if question.kind == "patch" else "",
        )
        members = frozenset(np.flatnonzero(labels == k).tobytes() for k in question.chosen)
        return used, self.units.tobytes(), members

    def sentence(self) -> str:
        """What is asked, in words; its texts are untrusted."""
        question = self.question
        on = f"Prompt: {_quoted(question.prompt)}."
        if not question.chosen:
            return f"No module is chosen. {on}"
        how = {
            "ablate": "Ablated to the mean",
            "scale": f"Scaled by {question.factor:g}",
            "patch": f"Patched from {_quoted(question.other_prompt)}",
        }[question.kind]
        names = [named(self.modules[k]) for k in question.chosen]
        more = len(names) - _N_NAMED
        what = ", ".join(names[:_N_NAMED]) + (f" and {more} more" if more > 0 else "")
        if question.core_size is not None:
            what = f"the first {question.core_size:,} units of {what}"
        return f"{how}: {what}, beside control {question.control}. {on}"


def checked_question(fields: Mapping[str, Any], modules: ModuleSet) -> Question:
    """A question of modules that exist, with a core smaller than its module.

    Args:
        fields: A value of each field of ``Question``.
        modules: The set that it is asked of.

    Raises:
        ModulesError: If a value does not fit.
    """
    for name in ("prompt", "other_prompt"):
        check_type(fields[name], str, f"{name} should be a text", "Type one.")
    check_choice("kind", fields["kind"], KINDS)
    factor = fields["factor"]
    is_real = isinstance(factor, int | float | np.integer | np.floating)
    if not is_real or isinstance(factor, bool) or not abs(factor) <= LARGEST_FACTOR:
        raise ModulesError(
            f"factor should lie between -{LARGEST_FACTOR:g} and {LARGEST_FACTOR:g}; got "
            f"{shown(factor)}. 0 switches the units off, 2 doubles them."
        )
    for name, most, remedy in (
        ("n_new_tokens", MOST_TOKENS, "Write less."),
        ("control", _LAST_CONTROL, "Pass a smaller number."),
    ):
        check_at_least(name, fields[name], 0)
        if fields[name] > most:
            said = shown(int(fields[name]))
            raise ModulesError(f"{name} should be at most {most}; got {said}. {remedy}")
    check_argument("chosen", fields["chosen"], Sequence[int])
    chosen = tuple(sorted({modules[k].label for k in fields["chosen"]}))
    size = fields["core_size"]
    if size is not None:
        check_at_least("core_size", size, 1)
        is_whole = len(chosen) != 1 or size >= modules[chosen[0]].n_units
        size = None if is_whole else int(size)
    checked = {"factor": float(factor), "chosen": chosen, "core_size": size}
    counts = {name: int(fields[name]) for name in ("n_new_tokens", "control")}
    return Question(**{**fields, **checked, **counts})


def check_used(question: Question, given: Collection[str]) -> None:
    """Refuse values that the question does not use: they would change nothing.

    Args:
        question: The question, as it would be asked.
        given: The fields that the caller gave.

    Raises:
        ModulesError: If a field is of no use.
    """
    for name, kind in (("factor", "scale"), ("other_prompt", "patch")):
        if name in given and question.kind != kind:
            raise ModulesError(
                f"{name} should go with kind={kind!r}; the kind is {question.kind!r}. Pass "
                f"kind={kind!r}, or leave {name} out."
            )
    if "core_size" in given and len(question.chosen) != 1:
        raise ModulesError(
            f"core_size should go with a single chosen module; {len(question.chosen)} are chosen. "
            "Pass chosen=[k], or leave core_size out."
        )


def _quoted(text: str) -> str:
    return f"“{shortened(visible(text), _LONGEST_PROMPT)}”"
