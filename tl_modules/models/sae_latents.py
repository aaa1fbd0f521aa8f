"""A sparse autoencoder's latents as a hook point: what hooks change there, the model feels."""

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
    """A sparse autoencoder, as SAELens defines them."""

    @property
    def cfg(self) -> Any:
        """Its configuration: ``d_in``, ``d_sae``."""
        ...

    def encode(self, x: torch.Tensor, /) -> torch.Tensor:
        """Activations ``[batch, pos, d_in]`` to latents ``[batch, pos, d_sae]``."""
        ...

    def decode(self, latents: torch.Tensor, /) -> torch.Tensor:
        """Back again. Called at most once after each ``encode``, whose scales it may need."""
        ...


class LatentPoint:
    """A hook point for an SAE's latents, spliced into a hook point of the model.

    While it has hooks, the activation ``x`` becomes ``x + decode(g) - decode(f)``, where ``f`` is
    ``encode(x)`` and ``g`` what the hooks make of it: the SAE's error ``x - decode(f)`` is kept.
    Where they change nothing, ``x`` stays as it is, bit for bit. Without hooks the SAE does not
    run, and the model carries no hook either.
    """

    def __init__(self, name: str, sae: Sae, on: torch.nn.Module, d_head: int | None = None) -> None:
        """Prepare; nothing is attached yet.

        Args:
            name: What hooks know it by.
            sae: The SAE.
            on: The model's hook point.
            d_head: If the SAE wants attention heads apart, ``[batch, pos, heads, d_head]``.
        """
        self.name = name
        self.width = int(sae.cfg.d_sae)
        self._on, self._d_head = on, d_head
        self.sae = sae
        """The SAE."""
        self.hooks: dict[_Handle, _Hook] = {}
        """The hooks on the latents, each with its handle."""
        self._splice: RemovableHandle | None = None

    def register_forward_hook(self, hook: _Hook) -> "_Handle":
        """Add a hook on the latents, as PyTorch's modules take them.

        Args:
            hook: ``hook(point, inputs, latents)``; what it returns replaces the latents.

        Returns:
            A handle with ``remove()``.
        """
        if self._splice is None:
            # First at its place: other hooks there see the edited activation, whenever attached.
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
        """The activation with the latents' hooks applied; None where they changed nothing."""
        del module, inputs
        with _constant(self.sae):
            values = self._shaped(x)
            latents = edited = self._encoded(values)
            unedited = latents.clone()  # a hook may write into what it is given
            for hook in tuple(self.hooks.values()):
                changed = hook(self, (edited,), edited)
                edited = edited if changed is None else changed
            if edited is latents and torch.equal(edited, unedited):
                return None
            after = self.sae.decode(edited)
            # Encoded anew: SAELens' run-time normalisation is state, which each decode uses up.
            before = self.sae.decode(self.sae.encode(values))
        return x + (after - before).reshape(x.shape).to(x)

    def _shaped(self, x: Float[torch.Tensor, "..."]) -> Float[torch.Tensor, "..."]:
        """The activation as the SAE takes it: its shape, dtype and device."""
        d_in = int(self.sae.cfg.d_in)
        values = flat(x, d_in)
        if values.shape[-1] != d_in:
            raise ModulesError(
                f"The SAE of {self.name!r} takes {d_in} values a token (cfg.d_in); the activation "
                f"there has shape {tuple(x.shape)}. Use the model and the hook point that the SAE "
                "was trained on."
            )
        if self._d_head is not None:
            values = values.unflatten(-1, (-1, self._d_head))
        own = next(iter(_parameters(self.sae)), None)
        return values if own is None else values.to(own.device, own.dtype)

    def _encoded(self, values: Float[torch.Tensor, "..."]) -> Float[torch.Tensor, "..."]:
        latents = self.sae.encode(values)
        lead = values.shape[: -1 if self._d_head is None else -2]
        if latents.shape != (*lead, self.width) or latents.is_sparse:
            raise ModulesError(
                f"The SAE of {self.name!r} should give dense latents of shape "
                f"{(*lead, self.width)}, as its cfg.d_sae says; it gave {tuple(latents.shape)}, "
                f"{latents.layout}. Correct the cfg; take an SAE for inference, not for training."
            )
        return latents


@dataclass(frozen=True, eq=False)
class _Handle:
    """One hook on the latents."""

    point: LatentPoint

    def remove(self) -> None:
        """Take the hook away; a second time does nothing."""
        self.point._remove(self)


def _parameters(sae: Sae) -> Iterator[torch.nn.Parameter]:
    return sae.parameters() if isinstance(sae, torch.nn.Module) else iter(())


@contextmanager
def _constant(sae: Sae) -> Iterator[None]:
    """Keep the SAE's parameters out of gradients, which pass through to the activation only."""
    own = list(_parameters(sae)) if torch.is_grad_enabled() else []
    trained = [parameter for parameter in own if parameter.requires_grad]
    try:
        for parameter in trained:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)
