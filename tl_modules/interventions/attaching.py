"""Hooks that stay on a model until their handle removes them."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch

from tl_modules.interventions.hooks import finders
from tl_modules.models.hooked_model import FwdHooks, HookedModel, HookFn


@dataclass(eq=False)
class AttachedEdit:
    """An edit that ``attach`` put on a model."""

    target: object
    """The object whose ``attach`` was called."""

    method: str | None
    """What becomes of its units; None for a target that is not a set of units."""

    hook_names: tuple[str, ...]
    """The hook points that it changes."""

    content: tuple[object, ...]
    """Two edits are the same if these are alike."""

    in_with: bool = False
    """Whether the end of a ``with`` removes it."""


class PointHook:
    """A hook function as the PyTorch hook of a hook point."""

    def __init__(self, fn: HookFn, edit: AttachedEdit | None) -> None:
        """Keep the function, and the edit that it is a part of, if any."""
        self.fn = fn
        self.edit = edit

    def __call__(self, point: Any, inputs: Any, output: torch.Tensor) -> torch.Tensor | None:
        """What the hook function makes of the activation."""
        del inputs
        return self.fn(output, hook=point)

    def __deepcopy__(self, memo: object) -> "PointHook":
        """Itself: a copied model shares its hooks with the model, as it shares functions."""
        return self


class Attached:
    """A handle of hooks that stay on a model until they are removed."""

    def __init__(self, handles: Iterable[Any], edit: AttachedEdit | None = None) -> None:
        """Hold the hooks' own handles, and the edit that they make up, if any."""
        self._handles, self._edit = list(handles), edit

    def remove(self) -> None:
        """Remove the hooks; a second call does nothing."""
        while self._handles:
            self._handles.pop().remove()

    def __enter__(self) -> "Attached":
        """The handle itself."""
        if self._edit is not None:
            self._edit.in_with = True
        return self

    def __exit__(self, *_: object) -> None:
        """Remove the hooks."""
        self.remove()


def attach_hooks(
    model: HookedModel, fwd_hooks: FwdHooks, edit: AttachedEdit | None = None
) -> Attached:
    """Put hooks on a model that the model's own ``reset_hooks`` does not remove.

    Args:
        model: The model.
        fwd_hooks: Hook point names with their functions.
        edit: The edit that they make up, where ``attached`` should list it.

    Returns:
        Their handle.
    """
    points = model.hook_dict  # which some models make anew each time
    found = [(points[name], PointHook(fn, edit)) for name, fn in fwd_hooks]
    handles: list[Any] = [point.register_forward_hook(hook) for point, hook in found]
    for finder in finders(fwd_hooks):
        finder.follow(model)
        handles.append(finder)
    return Attached(handles, edit)
