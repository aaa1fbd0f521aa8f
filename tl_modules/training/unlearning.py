"""Unlearning some prompts by training a module's weights, and the way back."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from tqdm.auto import trange

from tl_modules.errors import ModulesError, check_at_least, check_seed
from tl_modules.interventions.measuring import measures
from tl_modules.models.batches import Batch, batches
from tl_modules.models.gradients import check_differentiable
from tl_modules.models.hooked_model import HookedModel, check_causal
from tl_modules.models.losses import n_predicted, token_losses
from tl_modules.models.tokens import tokenise
from tl_modules.modules.module import Module
from tl_modules.runtime.arguments import Elsewhere, checked
from tl_modules.runtime.determinism import rows_alike
from tl_modules.tables.html_tables import html_table
from tl_modules.tables.prompt_frames import prompt_frame
from tl_modules.tables.prompt_tables import Prompts
from tl_modules.training.entries import Entries
from tl_modules.training.masks import units_of
from tl_modules.training.rectify import rectified
from tl_modules.training.reweight import satimp_weights
from tl_modules.units import Units

_Weights = tuple[float, float]
"""The exponents for saturation and importance."""


@dataclass(frozen=True, eq=False, repr=False)
class Unlearning:
    """What ``unlearn`` did to a model."""

    history: pd.DataFrame
    """One row a step: ``step``, ``forget_loss`` and ``retain_loss`` (nats per token of the step's
    prompts, before the step), ``cosine`` (of the forget gradient and the smoothed retain gradient;
    below 0 they conflict), ``rectified`` (whether the forget gradient was turned)."""

    units: Units | None
    """The units that were trained; None for the whole model."""

    before: Float[torch.Tensor, " _entries"]
    """What the trained entries were, in the order of the model's parameters."""

    parameters: tuple[str, ...]
    """The names of the parameters that hold them."""

    def restore(self, model: HookedModel) -> None:
        """Give the model the weights back that it had before, bit for bit.

        Args:
            model: The model that was trained.

        Raises:
            ModulesError: If it is another one, by its shape.
        """
        if self.units is None:  # those trained, whatever requires a gradient now
            entries = Entries.whole(model, self.parameters)
        else:
            entries = Entries.of(model, self.units)
        entries.write(self.before)

    def __repr__(self) -> str:
        """One line, not its arrays."""
        turned = np.count_nonzero(self.history["rectified"])
        return (
            f"Unlearning({len(self.history)} steps on {len(self.before):,} entries, {turned} "
            "rectified)"
        )

    def _repr_html_(self) -> str:
        """For Jupyter: the steps."""
        return html_table(repr(self), self.history)


@checked
@measures
def unlearn(  # noqa: PLR0913 - the options of one training, all by keyword
    model: HookedModel,
    module: Module | Units | None,
    forget: Prompts,
    retain: Prompts,
    *,
    n_steps: int = 20,
    learning_rate: float = 1e-4,
    rectify: bool = True,
    smoothing: float = 0.5,
    saturation: float = 1.0,
    importance: float = 1.0,
    optimizer: Annotated[
        Callable[..., torch.optim.Optimizer], Elsewhere("an optimizer class")
    ] = torch.optim.Adam,
    batch_size: int = 8,
    max_tokens: int | None = None,
    seed: int = 0,
    progress: bool = True,
) -> Unlearning:
    """Train a module's weights so that the model predicts some prompts worse; in place.

    What is minimised is minus the forget prompts' next-token loss, each token weighted as
    ``satimp_weights`` says (arXiv 2505.11953, section 5). Where its gradient conflicts with the
    retain prompts', it is ``rectified`` (arXiv 2503.09117, section 3); as there, the retain
    gradient is smoothed over steps. Both gradients are those by the trained entries alone.

    Args:
        model: The model, in eval mode: dropout would be part of what is trained.
        module: The module, or units, of the site ``"mlp"``; None trains every parameter that
            requires a gradient.
        forget: Prompts to unlearn: strings, or a frame with ``prompt``.
        retain: Prompts to go on predicting as well.
        n_steps: Steps.
        learning_rate: The optimizer's ``lr``.
        rectify: Whether conflicting forget gradients are turned.
        smoothing: The past's share of the retain gradient, from 0 to below 1.
        saturation: As ``satimp_weights`` takes it; with both 0 all tokens count alike.
        importance: As ``satimp_weights`` takes it.
        optimizer: Makes an optimizer of one vector, all trained entries, with ``lr``; one whose
            ``step()`` needs no closure.
        batch_size: How many prompts of each set a step draws.
        max_tokens: Cut prompts after so many tokens.
        seed: Seeds the draws.
        progress: Show a progress bar.

    Returns:
        The history, and with ``restore(model)`` the way back. If anything is raised on the way,
        Ctrl-C too, the model has its old weights.

    Raises:
        ModulesError: If the model is in training mode or not causal, the units are no MLP neurons
            of it, a prompt has fewer than two tokens, an option cannot be, or a loss becomes no
            number.
    """
    check_at_least("n_steps", n_steps, 1)
    check_at_least("batch_size", batch_size, 1)
    check_seed(seed)
    check_differentiable()
    check_causal(model, "unlearn")
    if getattr(model, "training", False):
        raise ModulesError("The model should be in eval mode. Call model.eval() first.")
    if not 0 < learning_rate < np.inf:
        raise ModulesError(f"learning_rate should be a positive number; got {learning_rate}.")
    if not 0 <= smoothing < 1:
        raise ModulesError(f"smoothing should lie from 0 to below 1; got {smoothing}.")
    satimp_weights(torch.zeros(0), saturation, importance)  # refuses what cannot be
    units = None if module is None else units_of(module)
    sets = [
        tokenise(model, prompt_frame(prompts)["prompt"].tolist(), max_tokens, least=2)
        for prompts in (forget, retain)
    ]
    entries = Entries.of(model, units)
    before = entries.gather(entries.parameters)
    # The optimizer sees these entries alone, so that no decay and no momentum reaches others; in
    # float32, as small steps are lost in 16 bits, and Adam divides by nothing there.
    vector = torch.nn.Parameter(before.float().clone())
    _check_optimizer(optimizer, learning_rate, vector.device)
    trained = optimizer([vector], lr=learning_rate)
    generator = np.random.default_rng(seed)
    weights = (saturation, importance)
    rows: list[dict[str, Any]] = []
    smoothed: torch.Tensor | None = None
    try:
        with entries.differentiable():
            for step in trange(n_steps, desc="unlearn", unit="step", disable=not progress):
                drawn = [_drawn(tokens, batch_size, generator) for tokens in sets]
                forget_loss, gradient = _gradient(model, entries, drawn[0], weights)
                retain_loss, found = _gradient(model, entries, drawn[1], None)
                smoothed = (
                    found if smoothed is None else smoothing * smoothed + (1 - smoothing) * found
                )
                turned = rectified(gradient, smoothed) if rectify else gradient
                rows.append(
                    {
                        "step": step,
                        "forget_loss": forget_loss,
                        "retain_loss": retain_loss,
                        "cosine": _cosine(gradient, smoothed),
                        "rectified": turned is not gradient,
                    }
                )
                vector.grad = turned
                trained.step()
                if not bool(vector.isfinite().all()):
                    raise ModulesError(
                        f"The weights should stay numbers; after step {step} some are none. Lower "
                        "the learning_rate; the model has its old weights."
                    )
                entries.write(vector.detach())
    except BaseException:
        entries.write(before)
        raise
    return Unlearning(pd.DataFrame(rows), units, before, tuple(dict.fromkeys(entries.names)))


def _check_optimizer(
    optimizer: Callable[..., torch.optim.Optimizer], learning_rate: float, device: torch.device
) -> None:
    """Refuse one that cannot be used, by a step of another vector before the model runs."""
    tried = torch.nn.Parameter(torch.zeros(2, device=device))
    tried.grad = torch.zeros_like(tried)
    try:
        optimizer([tried], lr=learning_rate).step()
    except (AttributeError, RuntimeError, TypeError, ValueError) as error:
        raise ModulesError(
            "unlearn takes an optimizer of one vector whose step() needs no closure, such as "
            f"torch.optim.Adam; got {getattr(optimizer, '__name__', type(optimizer).__name__)}, "
            f"which raises {type(error).__name__}: {error}"
        ) from error


def _drawn(
    token_lists: Sequence[torch.Tensor], batch_size: int, generator: np.random.Generator
) -> Batch:
    """Some prompts, each at most once."""
    size = min(batch_size, len(token_lists))
    chosen = generator.choice(len(token_lists), size=size, replace=False)
    (batch,) = batches(token_lists, size, chosen=chosen)
    return batch


def _gradient(
    model: HookedModel, entries: Entries, batch: Batch, weights: _Weights | None
) -> tuple[float, Float[torch.Tensor, " entries"]]:
    """A batch's loss (nats per token), and the gradient of what is minimised by the entries.

    Without weights that is the loss itself; with weights, minus the weighted loss.
    """
    device = getattr(model.cfg, "device", None)
    with torch.enable_grad():
        logits = model.run_with_hooks(
            batch.tokens.to(device), fwd_hooks=[], attention_mask=batch.mask.long().to(device)
        )
        losses = token_losses(logits, batch.tokens, batch.mask)
        n_tokens = n_predicted(batch.mask).sum().to(losses.device)
        minimised = losses
        if weights is not None:
            minimised = -satimp_weights((-losses).exp(), *weights) * losses
        with rows_alike():
            gradient = entries.gradient(minimised.sum() / n_tokens).float()
    loss = float(losses.detach().sum() / n_tokens)
    if not np.isfinite(loss) or not bool(gradient.isfinite().all()):
        raise ModulesError(
            f"The loss and its gradient should stay numbers; the loss is {loss}. Lower the "
            "learning_rate, or run the model in a wider dtype; it has its old weights."
        )
    return loss, gradient


def _cosine(one: torch.Tensor, other: torch.Tensor) -> float:
    """0 where one of them is 0."""
    return float(torch.nn.functional.cosine_similarity(one, other, dim=0))
