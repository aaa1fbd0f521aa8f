"""Several interventions in one forward pass, each on its own copy of the batch."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float

from tl_modules.models.hooked_model import FwdHooks, HookFn


@runtime_checkable
class InPlace(Protocol):
    """A hook that can be stacked: it may change a part of a batch in place."""

    def apply_(self, activation: Float[torch.Tensor, "*shape"]) -> Float[torch.Tensor, "*shape"]:
        """Change the activation, and return it."""
        ...


class Read:
    """A hook that reads an activation and changes nothing; it can be stacked."""

    def __init__(self, read: Callable[[torch.Tensor], object], *, last: bool = False) -> None:
        """Keep the function.

        Args:
            read: Takes the activation.
            last: Read what all edits leave, also those that name the hook point by an alias;
                otherwise what was there when this hook's turn came.
        """
        self._read = read
        self.last = last

    def __call__(self, activation: torch.Tensor, hook: object = None) -> None:
        """Read the activation."""
        del hook
        self.apply_(activation)

    def apply_(self, activation: torch.Tensor) -> torch.Tensor:
        """Read one copy's part of a stacked batch."""
        self._read(activation)
        return activation


def stacked(runs: Sequence[FwdHooks], n_rows: int) -> FwdHooks:
    """Hooks that make several interventions in one pass over copies of a batch, one per copy.

    Args:
        runs: Each intervention's hooks, as ``unit_hooks`` makes them; at one hook point they
            act in their order, but a ``Read(..., last=True)`` after all others.
        n_rows: Rows of the batch. Rows ``r * n_rows`` to ``(r + 1) * n_rows`` of the copies get
            intervention ``r``.

    Returns:
        One ``(hook_name, fn)`` pair a hook point that any of them touches.
    """
    edits: dict[tuple[bool, str], list[tuple[int, InPlace]]] = {}
    for run, pairs in enumerate(runs):
        for name, edit in pairs:
            assert isinstance(edit, InPlace)
            last = isinstance(edit, Read) and edit.last
            edits.setdefault((last, name), []).append((run, edit))

    def at(key: tuple[bool, str]) -> HookFn:
        def hook_fn(activation: torch.Tensor, hook: Any = None) -> torch.Tensor:
            del hook
            result = activation.clone(memory_format=torch.contiguous_format)
            for run, edit in edits[key]:
                edit.apply_(result[run * n_rows : (run + 1) * n_rows])
            return result

        return hook_fn

    # By name, two names of one hook point are two hooks: in the order of registration.
    ordered = sorted(edits, key=lambda key: key[0])
    return [(name, at((last, name))) for last, name in ordered]
