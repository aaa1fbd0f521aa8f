"""Unlearn prompts by training a module's weights, and restore the old weights."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from tqdm.auto import trange

from tl_modules.errors import ModulesError, check_at_least, check_seed
from tl_modules.interventions.ablation import Touched
from tl_modules.interventions.measuring import measures
from tl_modules.models.batches import Batch, batches
from tl_modules.models.gradients import check_differentiable
from tl_modules.models.hooked_model import HookedModel, check_causal
from tl_modules.models.loss_tokens import LossOn, LossTexts
from tl_modules.models.losses import n_predicted, token_losses
from tl_modules.modules.module import Module
from tl_modules.runtime.arguments import Elsewhere, checked
from tl_modules.runtime.determinism import rows_alike
from tl_modules.tables.html_tables import html_table
from tl_modules.tables.prompt_frames import prompt_frame
from tl_modules.tables.prompt_tables import Prompts
from tl_modules.training.content_gradients import GradientPaths
from tl_modules.training.entries import Entries
from tl_modules.training.masks import units_of
from tl_modules.training.rectify import rectified
from tl_modules.training.reweight import satimp_weights
from tl_modules.units import Units

_Weights = tuple[float, float]
"""The exponents for saturation and importance."""

_Drawn = tuple[Batch, Int[torch.Tensor, " batch"] | None]
"""Prompts, and where the tokens whose loss counts begin in each; see ``LossTexts``."""


@dataclass(frozen=True, eq=False, repr=False)
class Unlearning:
    """The history of an unlearning, and the weights to restore."""

    history: pd.DataFrame
    """One row per step: ``step``, ``forget_loss`` and ``retain_loss`` (nats per token of the step's
    prompts, before the step), ``cosine`` (of the forget gradient and the smoothed retain gradient;
    below 0 the gradients conflict), ``rectified`` (whether the forget gradient was changed)."""

    units: Units | None
    """The units that were trained; None if the whole model was trained."""

    before: Float[torch.Tensor, " _entries"]
    """The values of the trained entries before training, in the order of the parameters."""

    parameters: tuple[str, ...]
    """The names of the parameters that hold the trained entries."""

    def restore(self, model: HookedModel) -> None:
        """Undo the training: give the model its old weights back, bit for bit.

        Args:
            model: The model that was trained.

        Raises:
            ModulesError: If the model's shapes differ from the trained model's.
        """
        if self.units is None:  # by name: other parameters may require a gradient by now
            entries = Entries.whole(model, self.parameters)
        else:
            entries = Entries.of(model, self.units)
        entries.write(self.before)

    def __repr__(self) -> str:
        """Return one line, without the arrays."""
        turned = np.count_nonzero(self.history["rectified"])
        return (
            f"Unlearning({len(self.history)} steps on {len(self.before):,} entries, {turned} "
            "rectified)"
        )

    def _repr_html_(self) -> str:
        """Show Jupyter the steps."""
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
    loss_on: LossOn = "prompt",
    positions: Touched = "all",
    batch_size: int = 8,
    max_tokens: int | None = None,
    seed: int = 0,
    progress: bool = True,
) -> Unlearning:
    """Train a module's weights, in place, to unlearn some prompts and retain others.

    The objective is minus the forget prompts' next-token loss, with tokens weighted by
    ``satimp_weights`` (arXiv 2505.11953, section 5). If its gradient (the forget gradient)
    conflicts with the retain gradient (smoothed over steps), the forget gradient is ``rectified``;
    both steps follow arXiv 2503.09117, section 3. Gradients are with respect to the trained entries
    alone.

    Args:
        model: The model, in eval mode (training mode would train with dropout).
        module: The module, or units, of the site ``"mlp"``; None trains every parameter that
            requires a gradient.
        forget: Prompts to unlearn: strings, or a frame with ``prompt`` (and ``answer`` and
            ``separator``, if ``loss_on`` reads answers).
        retain: Prompts that the model should still predict.
        n_steps: The number of steps.
        learning_rate: The optimizer's ``lr``.
        rectify: Whether to rectify conflicting forget gradients.
        smoothing: The share of past gradients in the retain gradient, from 0 to below 1.
        saturation: An exponent of ``satimp_weights``; with both 0, tokens count equally.
        importance: The other exponent.
        optimizer: An optimizer class, called with one vector of all trained entries and ``lr``; its
            ``step()`` should need no closure.
        loss_on: The tokens over which both losses are averaged: those of the ``"prompt"``, of the
            ``"answer"`` after it, or ``"all"`` of both (instruction modelling, arXiv 2405.14394;
            the abstract was read).
        positions: With ``"content"``, gradients take no path through what the trained layers write
            at special tokens and attention sinks, such as the first token (see
            ``content_positions``). The trained weights still act there.
        batch_size: Prompts of each set per step.
        max_tokens: Cut prompts after this many tokens.
        seed: Seeds the draws of prompts.
        progress: Show a progress bar.

    Returns:
        The history; its ``restore(model)`` undoes the training. An exception or Ctrl-C during the
        training restores the old weights.

    Raises:
        ModulesError: If the model is in training mode or not causal, the units are not MLP neurons
            of the model, a prompt has fewer than two tokens, an answer that is read is missing, an
            option is not valid, or a loss is not finite.
    """
    check_at_least("n_steps", n_steps, 1)
    check_at_least("batch_size", batch_size, 1)
    check_seed(seed)
    check_differentiable()
    check_causal(model, "unlearn")
    if getattr(model, "training", False):
        raise ModulesError("The model should be in eval mode. Call model.eval() first.")
    _check_rates(learning_rate, smoothing)
    satimp_weights(torch.zeros(0), saturation, importance)  # validates the exponents
    units = None if module is None else units_of(module)
    paths = GradientPaths.of(model, units, positions)
    sets = [
        LossTexts.of(model, prompt_frame(prompts), loss_on, max_tokens)
        for prompts in (forget, retain)
    ]
    entries = Entries.of(model, units)
    drawn = [(texts, paths.counted(model, texts.token_lists, batch_size)) for texts in sets]
    before = entries.gather(entries.parameters)  # in the model's dtype, to be restored bit for bit
    # The optimizer sees these entries only, so weight decay and momentum do not change others.
    # They are in float32: in 16 bits small steps are lost, and Adam's epsilon is 0.
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
                to_forget, to_retain = (_draw(*each, batch_size, generator) for each in drawn)
                forget_loss, gradient = _gradient(model, entries, paths, to_forget, weights)
                retain_loss, retain_gradient = _gradient(model, entries, paths, to_retain, None)
                smoothed = (
                    retain_gradient
                    if smoothed is None
                    else smoothing * smoothed + (1 - smoothing) * retain_gradient
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
                        f"The weights should stay finite; after step {step} some are not. The "
                        "model has its old weights. Lower the learning_rate."
                    )
                entries.write(vector.detach())
    except BaseException:  # KeyboardInterrupt too: nothing half-trained is left behind
        entries.write(before)
        raise
    return Unlearning(pd.DataFrame(rows), units, before, tuple(dict.fromkeys(entries.names)))


def _check_rates(learning_rate: float, smoothing: float) -> None:
    if not 0 < learning_rate < np.inf:
        raise ModulesError(f"learning_rate should be a positive number; got {learning_rate}.")
    if not 0 <= smoothing < 1:
        raise ModulesError(f"smoothing should be at least 0 and below 1; got {smoothing}.")


def _check_optimizer(
    optimizer: Callable[..., torch.optim.Optimizer], learning_rate: float, device: torch.device
) -> None:
    """Raise for an unusable optimizer before the model runs, by a step on another vector."""
    trial = torch.nn.Parameter(torch.zeros(2, device=device))
    trial.grad = torch.zeros_like(trial)
    try:
        optimizer([trial], lr=learning_rate).step()
    except (AttributeError, RuntimeError, TypeError, ValueError) as error:
        raise ModulesError(
            "optimizer should be a class whose instance trains one vector and whose step() needs "
            "no closure, such as torch.optim.Adam; got "
            f"{getattr(optimizer, '__name__', type(optimizer).__name__)}, "
            f"which raises {type(error).__name__}: {error}"
        ) from error


def _draw(
    texts: LossTexts,
    counted: Sequence[torch.Tensor] | None,
    batch_size: int,
    generator: np.random.Generator,
) -> _Drawn:
    """Draw a batch of prompts without replacement."""
    n_texts = len(texts.token_lists)
    size = min(batch_size, n_texts)
    numbers = generator.choice(n_texts, size=size, replace=False)
    (batch,) = batches(texts.token_lists, size, counted, numbers)
    return batch, texts.starts_of(batch.rows)


def _gradient(
    model: HookedModel,
    entries: Entries,
    paths: GradientPaths,
    drawn: _Drawn,
    weights: _Weights | None,
) -> tuple[float, Float[torch.Tensor, " entries"]]:
    """Compute a batch's loss (nats per token) and the objective's gradient by the entries.

    Without weights the objective is the loss; with weights, it is minus the weighted loss.
    """
    batch, starts = drawn
    device = getattr(model.cfg, "device", None)
    with torch.enable_grad():
        logits = model.run_with_hooks(
            batch.tokens.to(device),
            fwd_hooks=paths.fwd_hooks(batch),
            attention_mask=batch.mask.long().to(device),
        )
        losses = token_losses(logits, batch.tokens, batch.mask, starts)
        n_tokens = n_predicted(batch.mask, starts).sum().to(losses.device)
        minimised = losses
        if weights is not None:
            minimised = -satimp_weights((-losses).exp(), *weights) * losses
        with rows_alike():
            gradient = entries.gradient(minimised.sum() / n_tokens).float()
    loss = float(losses.detach().sum() / n_tokens)
    if not np.isfinite(loss) or not bool(gradient.isfinite().all()):
        raise ModulesError(
            f"The loss and its gradient should stay finite; the loss is {loss}. The model has its "
            "old weights. Lower the learning_rate, or run the model in a wider dtype."
        )
    return loss, gradient


def _cosine(one: torch.Tensor, other: torch.Tensor) -> float:
    """Compute the cosine of two vectors; 0 if one of them is 0."""
    return float(torch.nn.functional.cosine_similarity(one, other, dim=0))
