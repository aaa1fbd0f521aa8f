"""Make a sparse autoencoder's latents a hook point, whose hooks act on the model."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch.utils.hooks import RemovableHandle

from tl_modules.errors import ModulesError
from tl_modules.models.hooked_model import flat

_Hook = Callable[[Any, tuple[torch.Tensor], torch.Tensor], torch.Tensor | None]


@runtime_checkable
class Sae(Protocol):
    """A sparse autoencoder with SAELens' interface."""

    @property
    def cfg(self) -> Any:
        """The configuration: ``d_in``, ``d_sae``."""
        ...

    def encode(self, x: torch.Tensor, /) -> torch.Tensor:
        """Encode activations ``[batch, pos, d_in]`` to latents ``[batch, pos, d_sae]``."""
        ...

    def decode(self, latents: torch.Tensor, /) -> torch.Tensor:
        """Decode latents; called at most once per ``encode``, whose scales it may need."""
        ...


class LatentPoint:
    """A hook point for an SAE's latents, spliced into a hook point of the model.

    Let ``f = encode(x)``, and let hooks change ``f`` to ``g``. The activation ``x`` becomes
    ``x + decode(g) - decode(f)``, which keeps the SAE's error ``x - decode(f)``. If the hooks
    change nothing, ``x`` stays the same, bit for bit. Without hooks, the SAE does not run and the
    model has no hook.
    """

    def __init__(self, name: str, sae: Sae, on: torch.nn.Module, d_head: int | None = None) -> None:
        """Prepare the hook point; nothing is attached yet.

        Args:
            name: The name of the hook point of the latents.
            sae: The SAE.
            on: The model's hook point.
            d_head: The size of a head if the SAE takes ``[batch, pos, heads, d_head]``.
        """
        self.name = name
        self.width = int(sae.cfg.d_sae)
        self._on, self._d_head = on, d_head
        self.sae = sae
        """The SAE."""
        self.hooks: dict[_Handle, _Hook] = {}
        """The hooks on the latents, by their handles."""
        self._splice: RemovableHandle | None = None

    def register_forward_hook(self, hook: _Hook) -> "_Handle":
        """Add a hook on the latents, in the form of PyTorch's forward hooks.

        Args:
            hook: A function ``hook(point, inputs, latents)``; its return value replaces the
                latents.

        Returns:
            A handle with ``remove()``.
        """
        if self._splice is None:
            # Prepended, so that other hooks at this point see the edited activation in any case.
            self._splice = self._on.register_forward_hook(self._spliced, prepend=True)
        handle = _Handle(self)
        self.hooks[handle] = hook
        return handle

    def _remove(self, handle: "_Handle") -> None:
        self.hooks.pop(handle, None)
        if not self.hooks and self._splice is not None:
            self._splice.remove()
            self._splice = None

    def _spliced(
        self, module: torch.nn.Module, inputs: Any, x: Float[torch.Tensor, "*shape"]
    ) -> Float[torch.Tensor, "*shape"] | None:
        """Apply the latents' hooks to the activation; None if they changed nothing."""
        del module, inputs
        with _constant(self.sae):
            values = self._shaped(x)
            latents = edited = self._encoded(values)
            unedited = latents.clone()  # a hook may write into its argument
            for hook in tuple(self.hooks.values()):
                changed = hook(self, (edited,), edited)
                edited = edited if changed is None else changed
            if edited is latents and torch.equal(edited, unedited):
                return None
            after = self.sae.decode(edited)
            # Encode again: SAELens' run-time normalisation is state that each decode consumes.
            before = self.sae.decode(self.sae.encode(values))
        return x + (after - before).reshape(x.shape).to(x)

    def _shaped(self, x: Float[torch.Tensor, "..."]) -> Float[torch.Tensor, "..."]:
        """Convert the activation to the SAE's shape, dtype and device."""
        d_in = int(self.sae.cfg.d_in)
        values = flat(x, d_in)
        if values.shape[-1] != d_in:
            raise ModulesError(
                f"The SAE of {self.name!r} takes {d_in} values per token (cfg.d_in); the "
                f"activation has shape {tuple(x.shape)}. Use the model and the hook point that the "
                "SAE was trained on."
            )
        if self._d_head is not None:
            values = values.unflatten(-1, (-1, self._d_head))
        first = next(iter(_parameters(self.sae)), None)
        return values if first is None else values.to(first.device, first.dtype)

    def _encoded(self, values: Float[torch.Tensor, "..."]) -> Float[torch.Tensor, "..."]:
        latents = self.sae.encode(values)
        lead = values.shape[: -1 if self._d_head is None else -2]
        if latents.shape != (*lead, self.width) or latents.is_sparse:
            raise ModulesError(
                f"The SAE of {self.name!r} should return dense latents of shape "
                f"{(*lead, self.width)}, as its cfg.d_sae says; it returned "
                f"{tuple(latents.shape)}, {latents.layout}. Correct the cfg, or use an SAE for "
                "inference instead of one for training."
            )
        return latents


@dataclass(frozen=True, eq=False)
class _Handle:
    """One hook on the latents."""

    point: LatentPoint

    def remove(self) -> None:
        """Remove the hook; a second call does nothing."""
        self.point._remove(self)


def _parameters(sae: Sae) -> Iterator[torch.nn.Parameter]:
    return sae.parameters() if isinstance(sae, torch.nn.Module) else iter(())


@contextmanager
def _constant(sae: Sae) -> Iterator[None]:
    """Exclude the SAE's parameters from gradients, which still pass to the activation."""
    parameters = list(_parameters(sae)) if torch.is_grad_enabled() else []
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    try:
        for parameter in trained:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)
