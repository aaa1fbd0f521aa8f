"""The metrics of a prompt: its loss, or how badly the model answers it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, Int

from tl_modules.errors import ModulesError
from tl_modules.interventions.ablation import Touched
from tl_modules.models.answers import tokenise_with_answers
from tl_modules.models.batch_sizes import BatchSize, batch_size_for
from tl_modules.models.batches import Batch, batches
from tl_modules.models.content_tokens import content_masks
from tl_modules.models.hooked_model import HookedModel, check_causal
from tl_modules.models.loss_tokens import LossOn, LossTexts
from tl_modules.models.losses import next_token_losses, scored_tokens

MetricName = Literal["loss", "answer_logprob", "answer_accuracy"]
"""``loss``: mean next-token loss, nats per token, over the tokens that ``loss_on`` names (see
``LossOn``). ``answer_logprob``: minus the log-probability of
the answer after the prompt, nats, summed over its tokens. ``answer_accuracy``: 1 where the model's
own choice differs from the answer in any token, else 0. The higher, the worse."""

METRICS: tuple[MetricName, ...] = get_args(MetricName)

Measure = Callable[
    [torch.Tensor, torch.Tensor, torch.Tensor, Int[np.ndarray, " batch"]],
    Float[torch.Tensor, " batch"],
]
"""``measure(logits, tokens, mask, rows)``: one number per row. ``rows`` numbers the prompts."""


@dataclass(frozen=True, eq=False)
class Task:
    """Prompts, padded, and what is measured on them."""

    batches: Sequence[Batch]
    measure: Measure
    texts: LossTexts
    """The tokens, and which of them are measured."""

    @property
    def token_lists(self) -> Sequence[Int[torch.Tensor, " _pos"]]:
        """The tokens of each prompt, and of its answer where answers are measured."""
        return self.texts.token_lists


def check_loss_on(metric: MetricName, loss_on: LossOn) -> None:
    """Refuse a choice of tokens for a metric that is no loss.

    Raises:
        ModulesError: If ``loss_on`` is not the default with an answer metric.
    """
    if metric != "loss" and loss_on != "prompt":
        raise ModulesError(
            f"loss_on goes with metric='loss'; got loss_on={loss_on!r} with {metric!r}, which is "
            "always of the answer. Leave loss_on out, or use metric='loss'."
        )


def reads_answers(metric: MetricName, loss_on: LossOn) -> bool:
    """Whether a metric is measured on prompts with their answers."""
    return metric != "loss" or loss_on != "prompt"


def make_task(
    model: HookedModel,
    frame: pd.DataFrame,
    metric: MetricName,
    batch_size: BatchSize,
    max_tokens: int | None,
    positions: Touched = "all",
    *,
    loss_on: LossOn = "prompt",
    gradients: bool = False,
) -> Task:
    """Prepare prompts to be measured.

    Args:
        model: The model.
        frame: What ``prompt_frame`` returned; where answers are read what ``with_separator``
            returned, with ``answer``.
        metric: One of ``METRICS``.
        batch_size: Prompts in a batch; ``"auto"``: as many as memory holds.
        max_tokens: Truncate prompts to this many tokens; not with answers, which would be cut off.
        positions: The tokens that count in the batches: those that interventions change.
        loss_on: The tokens over which the loss is averaged.
        gradients: Whether backward passes follow, which need more memory.

    Returns:
        The task.

    Raises:
        ModulesError: If the model is not causal, a prompt has fewer than two tokens, or an answer
            is missing or has no tokens of its own.
    """
    check_causal(model, f"metric={metric!r}")

    def padded(token_lists: Sequence[Int[torch.Tensor, " _pos"]]) -> list[Batch]:
        counted = None
        n_rows = batch_size_for(model, batch_size, token_lists, gradients=gradients)
        if positions == "content":
            counted = content_masks(model, token_lists, n_rows)
        return list(batches(token_lists, n_rows, counted))

    if metric == "loss":
        texts = LossTexts.of(model, frame, loss_on, max_tokens)

        def losses(
            logits: torch.Tensor, tokens: torch.Tensor, mask: torch.Tensor, rows: np.ndarray
        ) -> torch.Tensor:
            return next_token_losses(logits, tokens, mask, texts.starts_of(rows))

        return Task(padded(texts.token_lists), losses, texts)
    if max_tokens is not None:
        raise ModulesError(
            f"max_tokens goes with metric='loss'; with {metric!r} it would cut the answers off. "
            "Leave it out."
        )
    texts = LossTexts(*tokenise_with_answers(model, frame))
    measure = _error_rate if metric == "answer_accuracy" else _answer_surprise

    def of_answers(
        logits: torch.Tensor, tokens: torch.Tensor, mask: torch.Tensor, rows: np.ndarray
    ) -> torch.Tensor:
        return measure(logits, tokens, scored_tokens(mask, texts.starts_of(rows)))

    return Task(padded(texts.token_lists), of_answers, texts)


def check_measured(
    values: Float[np.ndarray, "runs prompts"], prompts: Int[np.ndarray, " prompts"]
) -> None:
    """Refuse values that are not finite: effects would be NaN, and p-values wrong.

    Args:
        values: What was measured under each intervention.
        prompts: The prompts' numbers.

    Raises:
        ModulesError: If a value is NaN or infinite.
    """
    bad = np.argwhere(~np.isfinite(values))
    if len(bad):
        run, column = bad[0]
        raise ModulesError(
            f"metric should be finite; on prompt {prompts[column]} it is {values[run, column]}, "
            "perhaps since activations overflow. Run the model in a wider dtype (float32), drop "
            "that prompt, or use another method."
        )


def _answer_surprise(
    logits: torch.Tensor, tokens: torch.Tensor, answers: Bool[torch.Tensor, "batch next"]
) -> torch.Tensor:
    """Minus the answers' log-probabilities; ``answers`` marks their tokens from the second on."""
    targets = tokens[:, 1:].to(logits.device)
    predicted = logits[:, :-1].float()
    of_targets = predicted.gather(2, targets[..., None]).squeeze(2)
    return (predicted.logsumexp(2) - of_targets).masked_fill(~answers, 0).sum(1)


def _error_rate(
    logits: torch.Tensor, tokens: torch.Tensor, answers: Bool[torch.Tensor, "batch next"]
) -> torch.Tensor:
    """1 where the most likely token differs from the answer's anywhere."""
    best, choice = logits[:, :-1].max(2)
    wrong = choice != tokens[:, 1:].to(logits.device)
    # argmax returns a token even where the logits are NaN.
    unknown = (best.isnan() & answers).any(1)
    return (wrong & answers).any(1).float().masked_fill(unknown, torch.nan)
