"""Gradients at the units of a site, by each kind of estimate."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float

from tl_modules.causal.metrics import Measure
from tl_modules.models.batches import Batch
from tl_modules.models.gradients import gradients_of
from tl_modules.models.hooked_model import FwdHooks, HookedModel, HookFn
from tl_modules.models.relevance import relevance_hooks
from tl_modules.units import Units

Estimate = Literal["gradient", "integrated_gradients", "relp"]
"""``gradient``: of the model's own run. ``integrated_gradients``: at each hook point, the mean over
runs between the model's own and the one with that hook point's units ablated. ``relp``: of a run
with constant gates."""

ByHook = dict[str, torch.Tensor]


class UnitGradients:
    """Computes the activations of a batch and an estimate's gradients with respect to them."""

    def __init__(
        self,
        model: HookedModel,
        units: Units,
        means: Float[np.ndarray, " coordinates"],
        estimate: Estimate,
        n_steps: int,
        measure: Measure,
    ) -> None:
        """Prepare an estimate.

        Args:
            model: The model.
            units: All units of a site.
            means: What ablation puts in the place of the units' coordinates.
            estimate: The kind.
            n_steps: Runs of integrated gradients per hook point.
            measure: The metric.

        Raises:
            ModulesError: If the model lacks hook points that the estimate needs.
        """
        self._model, self._measure, self._n_steps = model, measure, n_steps
        self._hook_names = units.hook_names
        self._widths = units.coordinates().widths
        starts = np.cumsum((0, *self._widths))[:-1].tolist()
        self.means = {
            name: torch.from_numpy(means[start : start + width])
            for name, start, width in zip(self._hook_names, starts, self._widths, strict=True)
        }
        """The means of each hook point's coordinates."""
        self._relevance = relevance_hooks(model, units.hook_names) if estimate == "relp" else []
        self._integrated = estimate == "integrated_gradients"

    def of_batch(self, batch: Batch) -> tuple[ByHook, ByHook]:
        """The activations of the model's own run and the gradients of each prompt's metric.

        Args:
            batch: The prompts, and the tokens at which units are ablated.

        Returns:
            Both by hook point.
        """
        if not self._integrated:
            return self._at(batch, self._hook_names, self._relevance)
        activations, _ = self._at(batch, self._hook_names, [])
        return activations, {name: self._along_path(batch, name) for name in self._hook_names}

    def _along_path(self, batch: Batch, name: str) -> torch.Tensor:
        """The mean gradient at a hook point while its units go to their means."""
        total: torch.Tensor | float = 0.0
        for step in range(self._n_steps):
            path = [(name, self._towards(name, batch, (step + 0.5) / self._n_steps))]
            _, gradients = self._at(batch, [name], path)
            total = total + gradients[name] / self._n_steps
        assert isinstance(total, torch.Tensor)
        return total

    def _at(
        self, batch: Batch, hook_names: Sequence[str], edits: FwdHooks
    ) -> tuple[ByHook, ByHook]:
        """Activations and gradients of a run under some hooks."""
        return gradients_of(
            lambda logits: self._measure(logits, batch.tokens, batch.mask, batch.rows),
            *(self._model, batch.tokens, batch.mask, hook_names, edits),
        )

    def _towards(self, name: str, batch: Batch, share: float) -> HookFn:
        """A hook that moves a hook point's units a share of the way to their means."""

        def hook_fn(activation: torch.Tensor, hook: object = None) -> torch.Tensor:
            del hook
            to = self.means[name].to(activation).reshape(activation.shape[2:])
            # A copy: a tensor made in inference mode has no gradients.
            counted = batch.counted.clone().to(activation.device)
            counted = counted.reshape(counted.shape + (1,) * to.ndim)
            return torch.where(counted, activation + share * (to - activation), activation)

        return hook_fn
