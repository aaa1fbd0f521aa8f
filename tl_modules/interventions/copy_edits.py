"""One edit for many sets of units, in passes over copies of one batch, one set per copy.

As in ``joined_edits``, a hook point's new values are computed once for the units of all sets, and a
mask says which copy takes which of them. All copies are of one batch, so that positions and another
run's values are found once, and nothing has to be copied to a device for a pass.
"""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int

from tl_modules.interventions.joined_edits import SetsEdit, union_of
from tl_modules.interventions.positions import Where
from tl_modules.interventions.replacements import Replace, Sources, means_of, replacements
from tl_modules.interventions.resident import Resident
from tl_modules.models.hooked_model import FwdHooks
from tl_modules.models.prompt_starts import FromTheStart
from tl_modules.units import Units

NewMethod = Literal["zero", "mean", "patch"]
"""The methods whose values do not depend on the activations that they replace, nor on the row."""


class CopyEdits:
    """Edits of several sets of units on one batch, for passes over copies of the batch."""

    def __init__(
        self,
        sets: Sequence[Units],
        method: NewMethod,
        sources: Sources,
        *,
        positions: Bool[torch.Tensor, "batch pos"] | None = None,
        attention_mask: Bool[torch.Tensor, "batch pos"] | None = None,
        places: Sequence[int] | None = None,
    ) -> None:
        """Build the edits.

        Args:
            sets: The sets of units, of one model; one may be empty. A set that is given several
                times, as one object, is kept once.
            method: How they are changed.
            sources: Where the new values come from; for ``"patch"`` another run of the batch.
            positions: Where in the batch to change them; None for every real token.
            attention_mask: True where a token is real; None without padding.
            places: The one position at which each set is changed; None for all.

        Raises:
            ModulesError: If the sources lack what the method needs.
        """
        distinct = {id(units): units for units in sets}
        numbers = {key: number for number, key in enumerate(distinct)}
        set_of = np.array([numbers[id(units)] for units in sets], dtype=np.int64)
        every = sets[0].coordinates().every()
        units, is_member = union_of(list(distinct.values()), _has_value(every, method, sources))
        make = replacements(units, method, sources)
        self._batch = _Batch(
            Where(positions, attention_mask, None, FromTheStart()),
            Resident(torch.from_numpy(set_of)),
            None if places is None else Resident(torch.tensor(list(places))),
        )
        self._set_of = set_of
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

    def __len__(self) -> int:
        """The number of sets."""
        return len(self._set_of)

    def hooks(self, first: int, last: int) -> FwdHooks:
        """Hooks for one pass over as many copies of the batch as it has sets.

        Args:
            first: The set of the first copy.
            last: The end.

        Returns:
            ``(hook_name, fn)`` pairs, one per hook point that one of the sets has units at.
        """
        some, run = self._set_of[first:last], _Pass(self._batch, slice(first, last))
        return [
            (edit.name, edit.hook_fn(run.changed)) for edit in self._edits if edit.touches(some)
        ]


def _has_value(
    every: Units, method: NewMethod, sources: Sources
) -> Bool[np.ndarray, " coordinates"]:
    """Which units the method has a value for."""
    if method != "mean":
        return np.ones(len(every), dtype=np.bool_)
    reference = sources.reference
    means = None if reference is None else means_of(reference, of_content=sources.of_content)[1]
    if means is None or len(means) != len(every):  # which ``replacements`` refuses
        return np.zeros(len(every), dtype=np.bool_)
    return np.isfinite(means)


class _Batch:
    """The batch, and what each copy of it gets."""

    def __init__(self, where: Where, set_of: Resident, places: Resident | None) -> None:
        self.where = where
        self.set_of = set_of
        self.places = places
        self._touched: dict[Any, Bool[torch.Tensor, "batch pos"] | None] = {}

    def touched(self, old: Float[torch.Tensor, "*shape"]) -> Bool[torch.Tensor, "batch pos"] | None:
        """The positions to change, for one copy's activation; None where it is every one."""
        key = (old.shape[:-1], old.device)
        if key not in self._touched:
            found = self.where.touched(old.shape[:-1])
            if found is not None:
                found = None if found.all() else Resident(found).on(old.device)
            self._touched[key] = found
        return self._touched[key]


class _Pass:
    """The copies of one pass."""

    def __init__(self, batch: _Batch, copies: slice) -> None:
        self.where = batch.where
        self._batch = batch
        self._copies = copies
        self._at: dict[Any, Bool[torch.Tensor, "copies rows pos"] | None] = {}

    def set_of(self, device: torch.device) -> Int[torch.Tensor, " copies"]:
        """The number of each copy's set."""
        return self._batch.set_of.on(device)[self._copies]

    def touched(
        self, old: Float[torch.Tensor, "*shape"]
    ) -> Bool[torch.Tensor, "copies rows pos"] | None:
        """The positions to change in each copy, the same for each of its rows or not."""
        key = (old.shape[:-1], old.device)
        if key not in self._at:
            found = self._batch.touched(old)
            found = None if found is None else found[None]
            if self._batch.places is not None:
                place = self._batch.places.on(old.device)[self._copies, None, None]
                at = torch.arange(old.shape[-2], device=old.device) == place
                found = at if found is None else found & at
            self._at[key] = found
        return self._at[key]

    def changed(
        self,
        stacked: Float[torch.Tensor, "_rows pos chosen"],
        is_member: Bool[torch.Tensor, "sets chosen"],
        replace: Replace,
    ) -> Float[torch.Tensor, "_rows pos chosen"]:
        """The activations of all sets' units: each copy's own are new, the others as they were."""
        numbers = self.set_of(stacked.device)
        old = stacked.unflatten(0, (len(numbers), -1))
        chosen = is_member[numbers]
        chosen = chosen[(slice(None), *[None] * (old.ndim - 2))]  # the same in each row and place
        touched = self.touched(old[0])
        if touched is not None:
            chosen = chosen & touched[..., None]
        new = replace(old[0], self.where).to(old)  # the same in each copy
        return torch.where(chosen, new, old).flatten(0, 1)
