"""Gradients of MLP weights that take no path through the tokens at which attention rests."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int

from tl_modules.errors import ModulesError
from tl_modules.interventions.ablation import Touched
from tl_modules.models.batches import Batch
from tl_modules.models.content_tokens import content_masks
from tl_modules.models.hooked_model import FwdHooks, HookedModel
from tl_modules.units import Units

_MLP_OUT = "blocks.{layer}.hook_mlp_out"


@dataclass(frozen=True, eq=False)
class GradientPaths:
    """The tokens through which the weights of MLP neurons get their gradient."""

    hook_names: tuple[str, ...] = ()
    """What the MLPs of these neurons write; none if the gradient goes through every token."""

    @classmethod
    def of(cls, model: HookedModel, units: Units | None, positions: Touched) -> "GradientPaths":
        """Prepare for a model.

        Args:
            model: The model.
            units: The MLP neurons that are trained; None for all parameters of the model.
            positions: The tokens.

        Raises:
            ModulesError: If all parameters are trained at content, or the model lacks a hook point.
        """
        if positions == "all":
            return cls()
        if units is None:
            raise ModulesError(
                "positions='content' holds gradients of MLP neurons back; module=None trains "
                "attention too. Use positions='all', or name a module."
            )
        layers = sorted({units.layers[hook] for hook, _ in units.by_hook()})
        names = tuple(_MLP_OUT.format(layer=layer) for layer in layers)
        missing = [name for name in names if name not in model.hook_dict]
        if missing:
            raise ModulesError(
                f"positions='content' needs the hook point {missing[0]!r}, which the model lacks. "
                "Use positions='all'."
            )
        return cls(names)

    def counted(
        self,
        model: HookedModel,
        token_lists: Sequence[Int[torch.Tensor, " _pos"]],
        batch_size: int,
    ) -> list[Bool[torch.Tensor, " _pos"]] | None:
        """Which tokens of each prompt the gradient goes through; None for all of them."""
        return content_masks(model, token_lists, batch_size) if self.hook_names else None

    def fwd_hooks(self, batch: Batch) -> FwdHooks:
        """Hooks that change no activation, and hold gradients back at other tokens."""
        if batch.counted.equal(batch.mask):
            return []
        kept = batch.counted[..., None]

        def hold_back(
            written: Float[torch.Tensor, "batch pos d_model"], hook: object
        ) -> Float[torch.Tensor, "batch pos d_model"]:
            del hook
            return torch.where(kept.to(written.device), written, written.detach())

        return [(name, hold_back) for name in self.hook_names]
