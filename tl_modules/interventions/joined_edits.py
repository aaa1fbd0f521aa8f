"""One edit for many sets of units, in passes in which each row has a set of its own.

A pass that stacks several interventions would otherwise gather and scatter the units of each one by
itself. Here a hook point's new values are computed once, for the units of all sets together, and a
mask says which row takes which of them.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int

from tl_modules.interventions.hooks import values_of
from tl_modules.interventions.positions import Where
from tl_modules.interventions.replacements import (
    HasUnitMeans,
    Make,
    Method,
    Replace,
    Sources,
    replacements,
)
from tl_modules.interventions.resident import Resident
from tl_modules.models.hooked_model import FwdHooks, HookedModel, HookFn
from tl_modules.models.prompt_starts import PromptStart, StartFinder
from tl_modules.units import Units


@dataclass(frozen=True, eq=False)
class Recipe:
    """How sets of units are changed. Sets with one recipe can share a pass."""

    method: Method
    reference: HasUnitMeans | None
    factor: float | None = None
    seed: int = 0
    of_content: bool = False

    def is_same(self, other: "Recipe") -> bool:
        """Whether two recipes give each unit the same value."""
        mine, theirs = (
            (each.method, each.factor, each.seed, each.of_content) for each in (self, other)
        )
        return mine == theirs and self.reference is other.reference

    def replacements(self, units: Units) -> Make:
        """Prepare the replacement of some units, of one coordinate each.

        Raises:
            ModulesError: If the recipe lacks what it needs.
        """
        sources = Sources(self.reference, None, self.factor, self.seed, of_content=self.of_content)
        return replacements(units, self.method, sources)


def union_of(
    sets: Sequence[Units], spare: Bool[np.ndarray, " coordinates"] | None = None
) -> tuple[Units, Bool[np.ndarray, "sets chosen"]]:
    """All units of some sets, as units of one coordinate each, and which of them each set has.

    Args:
        sets: The sets, of one model; one may be empty.
        spare: The model's coordinates that may be taken although no set has them: all of a hook
            point are taken if the sets have more than a quarter of it.
    """
    coordinates = [units.coordinates() for units in sets]
    every = coordinates[0].every()
    is_held = np.zeros(len(every), dtype=np.bool_)
    for each in coordinates:
        is_held[each.flat()] = True
    if spare is not None:
        for _, at in every.by_hook():
            # To pick out so many coordinates and to put them back costs more than to change all.
            if is_held[at].mean() > 1 / 4 and spare[at].all():
                is_held[at] = True
    union = np.flatnonzero(is_held)
    column = is_held.cumsum() - 1
    is_member = np.zeros((len(sets), len(union)), dtype=np.bool_)
    for row, each in zip(is_member, coordinates, strict=True):
        row[column[each.flat()]] = True
    return every.select(union), is_member


Change = Callable[
    [
        Float[torch.Tensor, "*shape chosen"],
        Bool[torch.Tensor, "sets chosen"],
        Replace,
    ],
    Float[torch.Tensor, "*shape chosen"],
]
"""From the old activations of all sets' units, which of them each set has, and what makes new
values: the activations after one pass's edits."""


class SetsEdit:
    """The edits of all sets at one hook point."""

    def __init__(
        self,
        name: str,
        width: int,
        index: Int[np.ndarray, " chosen"],
        replace: Replace,
        is_member: Bool[np.ndarray, "sets chosen"],
    ) -> None:
        """Keep what to change.

        Args:
            name: The hook point.
            width: How many coordinates the hook point has.
            index: The coordinates of all sets, sorted.
            replace: Makes their new values.
            is_member: Which of them each set has.
        """
        self.name = name
        self._width = width
        self._replace = replace
        is_whole = len(index) == width
        self._index = None if is_whole else Resident(torch.from_numpy(np.array(index)).long())
        self._is_member = Resident(torch.from_numpy(np.ascontiguousarray(is_member)))
        self._has_units = np.asarray(is_member.any(axis=1))

    def touches(self, sets: Int[np.ndarray, " some"]) -> bool:
        """Whether one of these sets has units here."""
        return bool(self._has_units[sets].any())

    def hook_fn(self, change: Change) -> HookFn:
        """A hook for one pass; the activation that it gets is not changed."""

        def hook(activation: torch.Tensor, hook: Any = None) -> torch.Tensor:
            del hook
            values = values_of(activation, self.name, self._width)
            is_member = self._is_member.on(values.device)
            if self._index is None:
                changed = change(values, is_member, self._replace)
            else:
                index = self._index.on(values.device)
                changed = values.clone(memory_format=torch.contiguous_format)
                changed[..., index] = change(values[..., index], is_member, self._replace)
            return changed.reshape(activation.shape)

        return hook


class JoinedEdits:
    """Edits of several sets of units, for passes whose rows have different sets."""

    def __init__(self, sets: Sequence[Units], recipe: Recipe) -> None:
        """Build the edits.

        Args:
            sets: The sets of units, of one model; one may be empty.
            recipe: How they are changed.

        Raises:
            ModulesError: If the recipe lacks what it needs.
        """
        units, is_member = union_of(sets)
        make = recipe.replacements(units)
        self._edits = [
            SetsEdit(
                units.hook_names[hook],
                units.widths[hook],
                units.index[at],
                make(units.hook_names[hook], at),
                is_member[:, at],
            )
            for hook, at in units.by_hook()
        ]

    def hooks(self, of_rows: Int[np.ndarray, " batch"], where: Where) -> FwdHooks:
        """Hooks for one pass.

        Args:
            of_rows: The number of each row's set.
            where: The positions to change.

        Returns:
            ``(hook_name, fn)`` pairs, one per hook point.
        """
        touched, numbers = _Touched(where), Resident(torch.from_numpy(of_rows))
        change = partial(_changed_rows, of_rows=numbers, touched=touched)
        return [(edit.name, edit.hook_fn(change)) for edit in self._edits]

    @contextmanager
    def writing(
        self,
        model: HookedModel,
        of_rows: Int[np.ndarray, " batch"],
        positions: Bool[torch.Tensor, "batch whole"] | None,
    ) -> Iterator[None]:
        """Change the rows of texts that the model writes inside the ``with``.

        Args:
            model: The model, whose ``generate`` may keep keys and values.
            of_rows: The number of each row's set.
            positions: Where to change them, up to the last token that is written; None for
                everywhere.
        """
        finder = _GrowingText()
        finder.follow(model)
        try:
            with model.hooks(fwd_hooks=self.hooks(of_rows, Where(positions, finder=finder))):
                yield
        finally:
            finder.remove()


class _GrowingText(StartFinder):
    """Finds where a run begins in a text that goes on after it, with a key-value cache or not."""

    def start(self) -> PromptStart:
        """Return the start of the current forward pass."""
        return replace(super().start(), is_open=True)


class _Touched:
    """The positions that a pass changes, found once for all hook points of a device."""

    def __init__(self, where: Where) -> None:
        self.where = where
        self._found: dict[Any, Bool[torch.Tensor, "batch pos"] | None] = {}

    def at(self, values: Float[torch.Tensor, "*shape"]) -> Bool[torch.Tensor, "batch pos"] | None:
        """The positions, for an activation; None where it is every one."""
        # The same at every hook point of a run; a run that goes on from a cache has others.
        key = (values.shape[:-1], values.device, self.where.finder.start().place)
        if key not in self._found:
            touched = self.where.touched(values.shape[:-1])
            self._found[key] = None if touched is None else touched.to(values.device)
        return self._found[key]


def _changed_rows(
    old: Float[torch.Tensor, "*shape chosen"],
    is_member: Bool[torch.Tensor, "sets chosen"],
    replace: Replace,
    of_rows: Resident,
    touched: _Touched,
) -> Float[torch.Tensor, "*shape chosen"]:
    """The activations of all sets' units: each row's own are new, the others as they were."""
    chosen = is_member[of_rows.on(old.device)]
    chosen = chosen[(slice(None), *[None] * (old.ndim - 2))]  # the same at each position
    at = touched.at(old)
    if at is not None:
        chosen = chosen & at[..., None]
    return torch.where(chosen, replace(old, touched.where).to(old), old)
