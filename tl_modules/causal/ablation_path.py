"""Each unit's part in what ablating a whole set of units does, from gradients along the way."""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Bool, Float

from tl_modules.causal.metrics import Task
from tl_modules.errors import ModulesError
from tl_modules.interventions.replacements import HasUnitMeans, means_of
from tl_modules.models.gradients import gradients_of, summed_losses
from tl_modules.models.hooked_model import FwdHooks, HookedModel, checked_flat
from tl_modules.models.losses import n_predicted
from tl_modules.units import Units


def ablation_path(
    model: HookedModel,
    task: Task,
    units: Units,
    reference: HasUnitMeans,
    done: Callable[[int], object],
    *,
    n_steps: int,
    of_content: bool,
) -> Float[np.ndarray, "prompts units"]:
    """Each unit's part in the rise of each prompt's loss when all of the units are mean-ablated.

    The units' activations move together from what they are to their means. A unit's part is the
    integral, over the way, of its step times the gradient of the loss there (integrated gradients,
    Sundararajan, Taly & Yan 2017, arXiv 1703.01365, on activations in place of inputs). The parts
    of all units sum to the rise, but for the error of ``n_steps`` midpoints. A gradient of the
    clean run alone says little where the model is right: the loss is flat there, and rises only
    once many of the units are gone.

    Args:
        model: The model.
        task: The prompts; the batches' counted tokens are those at which units move.
        units: The units that move.
        reference: Its means are where they move to.
        done: Called with the number of prompts after each pass.
        n_steps: How many points on the way have their gradients computed.
        of_content: Whether the means are those over content.

    Returns:
        The parts, in nats per token.

    Raises:
        ModulesError: If a part is not finite, or as in ``gradients_of``.
    """
    means = np.asarray(means_of(reference, of_content=of_content)[1], dtype=np.float32)
    parts = np.zeros((len(task.token_lists), len(units)))
    for batch in task.batches:
        starts = task.texts.starts_of(batch.rows)
        counts = n_predicted(batch.mask, starts).numpy()[:, None]
        measure = summed_losses(batch.tokens, batch.mask, starts)
        for step in range(n_steps):
            way = _Way(units, means, batch.counted, (step + 0.5) / n_steps)
            hook_names = list(way.columns)
            run = (model, batch.tokens, batch.mask, hook_names)
            _, gradients = gradients_of(measure, *run, edits=way.fwd_hooks)
            parts[batch.rows] += way.parts(gradients) / counts / n_steps
            done(len(batch.rows))
    if not np.isfinite(parts).all():
        raise ModulesError(
            "The estimated effects should be finite; some are not, perhaps since activations or "
            "gradients overflow. Run the model in a wider dtype (float32)."
        )
    return parts


@dataclass(eq=False)
class _Way:
    """Hooks that move units a share of the way to their means, and remember the whole way."""

    units: Units
    means: Float[np.ndarray, " coordinates"]
    """The means of all coordinates of the site."""

    counted: Bool[torch.Tensor, "batch pos"]
    share: float
    columns: dict[str, torch.Tensor] = field(init=False)
    """By hook point: the coordinates that move."""

    _targets: dict[str, torch.Tensor] = field(init=False)
    _steps: dict[str, torch.Tensor] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        """Look up the coordinates and their means."""
        coordinates = self.units.coordinates()
        values = self.means[coordinates.flat()]
        names = coordinates.hook_names
        by_hook = [(names[hook], at) for hook, at in coordinates.by_hook()]
        self.columns = {
            name: torch.from_numpy(coordinates.index[at]).long() for name, at in by_hook
        }
        self._targets = {name: torch.from_numpy(values[at]) for name, at in by_hook}

    @property
    def fwd_hooks(self) -> FwdHooks:
        """One hook per hook point."""
        return [(name, self._mover(name)) for name in self.columns]

    def parts(self, gradients: dict[str, torch.Tensor]) -> Float[np.ndarray, "batch units"]:
        """Each unit's whole step times the gradient, summed over the tokens that count."""
        coordinates = self.units.coordinates()
        found = np.empty((len(self.counted), len(coordinates)))
        for hook, at in coordinates.by_hook():
            name = coordinates.hook_names[hook]
            steps = self._steps[name]
            gradient = checked_flat(gradients[name], coordinates.widths[hook], name)
            products = steps * gradient.float()[..., self.columns[name].to(gradient.device)]
            # Padding may hold NaN in some models.
            counted = self.counted.to(products.device)[..., None]
            found[:, at] = products.masked_fill(~counted, 0).sum(1).cpu().double().numpy()
        return self.units.summed(found)

    def _mover(self, name: str) -> Callable[..., torch.Tensor]:
        def hook_fn(activation: torch.Tensor, hook: object = None) -> torch.Tensor:
            del hook
            # Copies: those made in inference mode have no gradients.
            columns, targets = (
                each.clone().to(activation.device)
                for each in (self.columns[name], self._targets[name])
            )
            values = activation.flatten(2)
            counted = self.counted.clone().to(activation.device)[..., None]
            steps = (targets.to(values.dtype) - values[..., columns]) * counted
            self._steps[name] = steps.detach().float()
            return values.index_add(2, columns, steps, alpha=self.share).reshape(activation.shape)

        return hook_fn
