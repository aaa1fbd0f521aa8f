"""The state of an exploration: the set as edited, its history, and the question asked of it."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from tl_modules.errors import ModulesError, check_at_least, shown
from tl_modules.modules.lookup import position_of
from tl_modules.modules.module_set import ModuleSet
from tl_modules.report.explorer.edits import Edit, merged, moved, renamed, split
from tl_modules.report.explorer.question import Asked, Question, checked_question
from tl_modules.runtime.arguments import check_argument

_NUMBER = re.compile(r"\d{1,12}")  # Python reads no number of thousands of digits
_Labels = tuple[int, ...]


@dataclass(frozen=True, eq=False)
class _Before:
    """What an edit is taken back to, and what it left."""

    modules: ModuleSet
    pinned: _Labels
    question: Question
    target: _Labels
    """The number that the edit gave each module."""
    pinned_after: _Labels
    question_after: Question


@dataclass(eq=False)
class Session:
    """The set, the question, and what led there."""

    modules: ModuleSet
    """The set as edited."""

    question: Question
    """What is asked of it."""

    ranking: Float[np.ndarray, " units"] | None = None
    """A score of every unit of the site: the highest of a module's units come first."""

    pinned: tuple[int, ...] = ()
    """The modules at the top of the list."""

    history: tuple[str, ...] = ()
    """The steps that led to the set, one line each."""

    _past: list[_Before] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Check the question and the ranking.

        Raises:
            ModulesError: If the question does not fit, or the ranking has another length.
        """
        if self.ranking is None and self.modules.unit_scores is not None:
            self.ranking = self.modules.unit_scores
        n_units = len(self.modules.units)
        if self.ranking is not None and np.shape(self.ranking) != (n_units,):
            raise ModulesError(
                f"ranking should be one score per unit of the site, ({n_units},); got shape "
                f"{np.shape(self.ranking)}. Pass UnitEstimates.contrast(category), for one."
            )
        self.question = checked_question(vars(self.question), self.modules)

    def ask(self, **changes: Any) -> None:
        """Change fields of the question; see ``with_changes``."""
        self.question = self.with_changes(**changes)

    def with_changes(self, **changes: Any) -> Question:
        """The question with some fields changed; the session keeps its own.

        Raises:
            ModulesError: If a field is unknown or its value does not fit.
        """
        unknown = set(changes) - set(Question.__dataclass_fields__)
        if unknown:
            raise ModulesError(
                f"A question has the fields {sorted(Question.__dataclass_fields__)}; got "
                f"{sorted(unknown)}. Leave them out."
            )
        if "chosen" in changes and "core_size" not in changes:
            changes["core_size"] = None  # it was that of other modules
        return checked_question(vars(self.question) | changes, self.modules)

    def asked(self) -> Asked:
        """The question with the set that it is asked of now."""
        return Asked(self.question, self.modules, self.changed_units())

    def pin(self, k: int) -> None:
        """Pin a module to the top of the list, or unpin it."""
        label = self.modules[k].label
        pinned = set(self.pinned) ^ {label}
        self.pinned = tuple(sorted(pinned))

    def merge(self, numbers: Sequence[int]) -> None:
        """Merge modules; see ``edits.merged``."""
        check_argument("numbers", numbers, Sequence[int])
        self._do(merged(self.modules, numbers))

    def split(self, k: int, *, n: int | None = None, layer: int | None = None) -> None:
        """Split a module in two.

        Args:
            k: The module.
            n: It keeps the first n units of its ranking; the others make the new module.
            layer: It keeps its units up to this layer.

        Raises:
            ModulesError: If not exactly one of ``n`` and ``layer`` is given, or one part is empty.
        """
        if (n is None) == (layer is None):
            raise ModulesError("A split needs either n or layer. Pass one of them.")
        order = self.ranked(k)
        if n is not None:
            check_at_least("n", n, 1)
            rest = order[n:]
        else:
            check_argument("layer", layer, int)
            units = self.modules.units
            rest = order[np.asarray(units.layers)[units.hook[order]] > layer]
        self._do(split(self.modules, k, rest))

    def move(self, units: Sequence[int], to: int | None) -> None:
        """Move units, given by their positions in ``modules.units``; see ``edits.moved``."""
        n_units = len(self.modules.units)
        for at in units:  # before they become int64, which holds no larger numbers
            if not 0 <= at < n_units:
                raise ModulesError(
                    f"Units are numbered 0..{n_units - 1} here; got {shown(int(at))}. Choose them "
                    "again."
                )
        self._do(moved(self.modules, np.array(units, dtype=np.int64), to))

    def keep_core(self, k: int, n: int) -> None:
        """Take all but the first n units of a module out of it; they then belong to no module."""
        check_at_least("n", n, 1)
        rest = self.ranked(k)[n:]
        if not len(rest):
            raise ModulesError(
                f"Module {k} has no more than {n} units already. Choose a smaller core."
            )
        line = f"reduced module {self.modules[k].label} to its first {n:,} units"
        self._do(replace(moved(self.modules, rest, None), line=line))

    def rename(self, k: int, name: str) -> None:
        """Name a module; see ``edits.renamed``."""
        check_argument("name", name, str)
        self._do(renamed(self.modules, k, name))

    def undo(self) -> None:
        """Take the last edit back.

        Raises:
            ModulesError: If there is none.
        """
        if not self._past:
            raise ModulesError("There is no edit to take back.")
        before = self._past.pop()
        now, left, was = self.question, before.question_after, before.question
        is_same = now.chosen == left.chosen and now.core_size == left.core_size
        self.modules, self.history = before.modules, self.history[:-1]
        self.pinned = _taken_back(self.pinned, before.pinned_after, before.pinned, before.target)
        chosen = _taken_back(now.chosen, left.chosen, was.chosen, before.target)
        origins = tuple(k for k, number in enumerate(before.target) if number in now.chosen)
        if not is_same and origins == chosen and len(origins) == len(now.chosen):
            core_size = now.core_size  # of the same module
        else:
            core_size = was.core_size if chosen == was.chosen else None
        self.ask(chosen=chosen, core_size=core_size)

    @property
    def can_undo(self) -> bool:
        """Whether there is an edit to take back."""
        return bool(self._past)

    def ranked(self, k: int) -> Int[np.ndarray, " units"]:
        """Positions of a module's units, first the highest of the ranking; unranked ones last."""
        own = np.flatnonzero(self.modules.unit_labels == self.modules[k].label)
        if self.ranking is None:
            return own
        scores = np.asarray(self.ranking, dtype=np.float64)[own]
        return own[np.argsort(-np.where(np.isfinite(scores), scores, -np.inf), kind="stable")]

    def changed_units(self) -> Int[np.ndarray, " chosen"]:
        """Positions of the units that the question changes."""
        question = self.question
        if len(question.chosen) == 1 and question.core_size is not None:
            return np.sort(self.ranked(question.chosen[0])[: question.core_size])
        return np.flatnonzero(np.isin(self.modules.unit_labels, question.chosen))

    def positions_of(self, text: str) -> list[int]:
        """Positions of units that a text names, such as ``"12:345, 3:17"`` (layer:unit).

        Raises:
            ModulesError: If the text is no such list, or there is no such unit.
        """
        pairs = [part.split(":") for part in re.split(r"[\s,;]+", text.strip()) if part]
        if not all(len(pair) == 2 and all(map(_NUMBER.fullmatch, pair)) for pair in pairs):
            raise ModulesError(
                f"Units should be written layer:unit, such as 12:345, 3:17; got {shown(text)}. "
                "Type them again."
            )
        return self.positions([(int(layer), int(unit)) for layer, unit in pairs])

    def positions(self, pairs: Iterable[tuple[int, int]]) -> list[int]:
        """Positions of the units that pairs ``(layer, unit)`` name.

        Raises:
            ModulesError: If there is no such unit.
        """
        units = self.modules.units
        return [position_of(units, layer, unit, None) for layer, unit in pairs]

    def _do(self, edit: Edit) -> None:
        """Take a step."""
        modules, pinned, question = self.modules, self.pinned, self.question
        self.modules, self.history = edit.modules, (*self.history, edit.line)
        self.pinned = tuple(sorted({edit.target[k] for k in pinned}))
        chosen = tuple(sorted({edit.target[k] for k in question.chosen}))
        grown = any(edit.target.count(k) > 1 for k in chosen)  # its first units are other ones
        self.ask(chosen=chosen, core_size=None if grown else question.core_size)
        self._past.append(
            _Before(modules, pinned, question, edit.target, self.pinned, self.question)
        )


def _taken_back(now: _Labels, left: _Labels, was: _Labels, target: _Labels) -> _Labels:
    """Modules chosen or pinned, after an edit is taken back.

    Args:
        now: Their numbers before that.
        left: The numbers that the edit left. If they are the same, nothing was chosen since.
        was: The numbers before the edit.
        target: The number that the edit gave each module.
    """
    if now == left:
        return was
    back = tuple(k for k, number in enumerate(target) if number in now)
    return back if back or not now else was  # a module that was split off is gone
