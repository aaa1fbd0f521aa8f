"""The edits that ``attach`` left on a model: a list of them, and their removal."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch

from tl_modules.interventions.attaching import Attached, AttachedEdit, PointHook, attach_hooks
from tl_modules.interventions.hooks import finders
from tl_modules.models.hooked_model import FwdHooks, HookedModel, check_model, parts_of
from tl_modules.models.sae_latents import LatentPoint
from tl_modules.runtime.call_warnings import warn_user


@dataclass(frozen=True, eq=False, repr=False)
class Attachment:
    """An edit that ``attach`` left on a model."""

    target: Any
    """The module, or other target, that was attached."""

    method: str | None
    """How its units are changed; None for a target that is not a set of units."""

    hook_names: tuple[str, ...]
    """The hook points that the edit changes."""

    handle: Attached
    """``handle.remove()`` removes the edit."""

    in_with: bool
    """Whether the end of a ``with`` removes the edit."""

    def __repr__(self) -> str:
        """One line."""
        method = "" if self.method is None else f", method {self.method!r}"
        return f"Attachment({self.target!r}{method}, at {len(self.hook_names)} hook points)"


def attached(model: HookedModel) -> list[Attachment]:
    """The edits that this package's ``attach`` methods left on a model.

    The list is read from the model's own hooks, so it includes edits whose handles are lost. For a
    copy of a model, it holds the edits of the copy.

    Args:
        model: The model, or a ``SplicedModel`` of it; both give the same list.

    Returns:
        One description per edit, with its handle, in the order of their first hook points.

    Raises:
        ModulesError: If ``model`` is not a hooked model.
    """
    check_model(model)
    handles_of: dict[AttachedEdit, list[Any]] = {}
    for edit, handle in _attached_hooks(model):
        handles_of.setdefault(edit, []).append(handle)
    return [
        Attachment(edit.target, edit.method, edit.hook_names, Attached(handles, edit), edit.in_with)
        for edit, handles in handles_of.items()
    ]


def detach_all(model: HookedModel) -> int:
    """Remove every edit that this package's ``attach`` methods left on a model.

    Handles of these edits do nothing afterwards. Other hooks stay.

    Args:
        model: The model, or a ``SplicedModel`` of it.

    Returns:
        How many edits there were.

    Raises:
        ModulesError: If ``model`` is not a hooked model.
    """
    edits = attached(model)
    for edit in edits:
        edit.handle.remove()
    return len(edits)


def attach_edit(
    model: HookedModel,
    fwd_hooks: FwdHooks,
    target: object,
    method: str | None,
    content: tuple[object, ...],
) -> Attached:
    """Attach a target's hooks, with a warning if the same edit is on the model already.

    Args:
        model: The model.
        fwd_hooks: The hooks.
        target: The target.
        method: What becomes of its units, if it consists of units.
        content: What tells the edit from others at the same hook points.

    Returns:
        The handle.
    """
    edit = AttachedEdit(target, method, tuple(name for name, _ in fwd_hooks), content)
    if any(_alike(_compared(edit), _compared(other)) for other, _ in _attached_hooks(model)):
        warn_user(
            f"{target!r} is attached to this model already, in the same way: both edits act, one "
            "after the other, until each is removed. Call tl_modules.detach_all(model) to remove "
            "all edits; handle.remove() removes one.",
        )
    return attach_hooks(model, fwd_hooks, edit)


@dataclass(frozen=True, eq=False)
class _Handle:
    """The handle of one hook on a part of the model, wherever the part came from."""

    hooks: dict[int, Any]
    key: int

    def remove(self) -> None:
        """Take the hook away; a second time does nothing."""
        self.hooks.pop(self.key, None)


def _attached_hooks(model: HookedModel) -> Iterator[tuple[AttachedEdit, Any]]:
    """Each hook that ``attach`` made, as its edit and a handle."""
    latents: dict[LatentPoint, None] = {}
    found: list[tuple[object, Any]] = []
    before: list[tuple[object, Any]] = []
    for part in parts_of(model).values():
        for into, name in ((found, "_forward_hooks"), (before, "_forward_pre_hooks")):
            hooks = getattr(part, name, {})
            into += [(hook, _Handle(hooks, key)) for key, hook in hooks.items()]
    for splice in [getattr(hook, "__self__", None) for hook, _ in found]:
        if isinstance(splice, LatentPoint):  # which the model itself doesn't list
            latents[splice] = None
    for point in latents:
        found += [(hook, handle) for handle, hook in point.hooks.items()]
    owners: dict[int, AttachedEdit] = {}
    for hook, handle in found:
        if isinstance(hook, PointHook) and hook.edit is not None:
            yield hook.edit, handle
            owners |= {id(finder): hook.edit for finder in finders([("", hook.fn)])}
    # What tells the edits where each run begins.
    for hook, handle in before:
        edit = owners.get(id(getattr(hook, "__self__", None)))
        if edit is not None:
            yield edit, handle


def _compared(edit: AttachedEdit) -> tuple[object, ...]:
    return edit.method, edit.hook_names, edit.content


def _alike(one: Any, other: Any) -> bool:
    """Whether two values are equal, arrays and tables by what they hold."""
    if one is other:
        return True
    if type(one) is not type(other):
        return False
    if is_dataclass(one):
        return all(_alike(getattr(one, f.name), getattr(other, f.name)) for f in fields(one))
    if isinstance(one, Mapping):
        return one.keys() == other.keys() and all(_alike(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(_alike, one, other))
    if isinstance(one, np.ndarray):
        return np.array_equal(one, other)
    if isinstance(one, torch.Tensor):
        return one.device == other.device and torch.equal(one, other)
    return one.equals(other) if isinstance(one, pd.DataFrame) else bool(one == other)
