"""The state of an exploration: the set as edited, its history, and the question asked of it."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
from jaxtyping import Float, Int

from tl_modules.errors import ModulesError, check_at_least, check_choice, check_type, shown
from tl_modules.modules.lookup import position_of
from tl_modules.modules.module_set import ModuleSet
from tl_modules.report.explorer.edits import Edit, merged, moved, renamed, split
from tl_modules.runtime.arguments import check_argument

Kind = Literal["ablate", "scale", "patch"]
"""``ablate``: the units' activations become their means. ``scale``: they are multiplied by a
factor. ``patch``: they become those of another prompt of as many tokens."""

KINDS: tuple[Kind, ...] = ("ablate", "scale", "patch")
LARGEST_FACTOR = 100.0
MOST_TOKENS = 200


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

    _past: list[tuple[ModuleSet, tuple[int, ...], Question]] = field(default_factory=list)

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
        self.question = self._checked(vars(self.question))

    def ask(self, **changes: Any) -> None:
        """Change fields of the question.

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
        self.question = self._checked(vars(self.question) | changes)

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

    def move(self, units: Int[np.ndarray, " chosen"], to: int | None) -> None:
        """Move units, given by their positions in ``modules.units``; see ``edits.moved``."""
        positions = np.asarray(units, dtype=np.int64)
        n_units = len(self.modules.units)
        if len(positions) and not 0 <= positions.min() <= positions.max() < n_units:
            raise ModulesError(f"Units are numbered 0..{n_units - 1} here. Choose them again.")
        self._do(moved(self.modules, positions, to))

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
        self.modules, self.pinned, question = self._past.pop()
        self.history = self.history[:-1]
        self.ask(chosen=question.chosen, core_size=question.core_size)

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

    def positions_of(self, text: str) -> Int[np.ndarray, " chosen"]:
        """Positions of units that a text names, such as ``"12:345, 3:17"`` (layer:unit).

        Raises:
            ModulesError: If the text is no such list, or there is no such unit.
        """
        pairs = [part.split(":") for part in re.split(r"[\s,;]+", text.strip()) if part]
        if not all(len(pair) == 2 and all(map(str.isdecimal, pair)) for pair in pairs):
            raise ModulesError(
                f"Units should be written layer:unit, such as 12:345, 3:17; got {shown(text)}. "
                "Type them again."
            )
        return self.positions((int(layer), int(unit)) for layer, unit in pairs)

    def positions(self, pairs: Iterable[tuple[int, int]]) -> Int[np.ndarray, " chosen"]:
        """Positions of the units that pairs ``(layer, unit)`` name.

        Raises:
            ModulesError: If there is no such unit.
        """
        units = self.modules.units
        found = [position_of(units, layer, unit, None) for layer, unit in pairs]
        return np.array(found, dtype=np.int64)

    def _do(self, edit: Edit) -> None:
        """Take a step."""
        self._past.append((self.modules, self.pinned, self.question))
        before, self.modules = self.modules, edit.modules
        self.history = (*self.history, edit.line)
        mapped: Callable[[Sequence[int]], tuple[int, ...]] = lambda numbers: tuple(  # noqa: E731
            sorted({edit.target[k] for k in numbers})
        )
        self.pinned = mapped(self.pinned)
        chosen = mapped(self.question.chosen)
        same = before.n_modules == self.modules.n_modules and chosen == self.question.chosen
        self.ask(chosen=chosen, core_size=self.question.core_size if same else None)

    def _checked(self, fields: Mapping[str, Any]) -> Question:
        """A question of modules that exist, with a core smaller than its module.

        Raises:
            ModulesError: If a value does not fit.
        """
        for name in ("prompt", "other_prompt"):
            check_type(fields[name], str, f"{name} should be a text", "Type one.")
        check_choice("kind", fields["kind"], KINDS)
        factor = fields["factor"]
        is_number = isinstance(factor, int | float | np.number) and not isinstance(factor, bool)
        if not is_number or not abs(factor) <= LARGEST_FACTOR:
            raise ModulesError(
                f"factor should lie between -{LARGEST_FACTOR:g} and {LARGEST_FACTOR:g}; got "
                f"{shown(factor)}. 0 switches the units off, 2 doubles them."
            )
        check_at_least("n_new_tokens", fields["n_new_tokens"], 0)
        if fields["n_new_tokens"] > MOST_TOKENS:
            raise ModulesError(
                f"n_new_tokens should be at most {MOST_TOKENS}; got {fields['n_new_tokens']}. "
                "Write less."
            )
        check_at_least("control", fields["control"], 0)
        check_argument("chosen", fields["chosen"], Sequence[int])
        chosen = tuple(sorted({self.modules[k].label for k in fields["chosen"]}))
        size = fields["core_size"]
        if size is not None:
            check_at_least("core_size", size, 1)
            is_whole = len(chosen) != 1 or size >= self.modules[chosen[0]].n_units
            size = None if is_whole else int(size)
        checked = {"factor": float(factor), "chosen": chosen, "core_size": size}
        counts = {name: int(fields[name]) for name in ("n_new_tokens", "control")}
        return Question(**{**fields, **checked, **counts})
