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
from tl_modules.models.losses import next_token_losses
from tl_modules.models.tokens import tokenise

MetricName = Literal["loss", "answer_logprob", "answer_accuracy"]
"""``loss``: mean next-token loss, nats per token. ``answer_logprob``: minus the log-probability of
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
    token_lists: Sequence[Int[torch.Tensor, " _pos"]]
    """The tokens of each prompt, and of its answer where answers are measured."""


def make_task(
    model: HookedModel,
    frame: pd.DataFrame,
    metric: MetricName,
    batch_size: BatchSize,
    max_tokens: int | None,
    positions: Touched = "all",
    *,
    gradients: bool = False,
) -> Task:
    """Prepare prompts to be measured.

    Args:
        model: The model.
        frame: What ``prompt_frame`` returned; for the answer metrics what ``with_separator``
            returned, with ``answer``.
        metric: One of ``METRICS``.
        batch_size: Prompts in a batch; ``"auto"``: as many as memory holds.
        max_tokens: Truncate prompts to this many tokens; not with answers, which would be cut off.
        positions: The tokens that count in the batches: those that interventions change.
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
        token_lists = tokenise(model, frame["prompt"].tolist(), max_tokens, least=2)
        return Task(padded(token_lists), _losses, token_lists)
    if max_tokens is not None:
        raise ModulesError(
            f"max_tokens goes with metric='loss'; with {metric!r} it would cut the answers off. "
            "Leave it out."
        )
    token_lists, starts = tokenise_with_answers(model, frame)
    measure = _error_rate if metric == "answer_accuracy" else _answer_surprise

    def of_answers(
        logits: torch.Tensor, tokens: torch.Tensor, mask: torch.Tensor, rows: np.ndarray
    ) -> torch.Tensor:
        positions = torch.arange(1, tokens.shape[1])
        predicts = positions[None, :] >= torch.from_numpy(starts[rows])[:, None]
        return measure(logits, tokens, mask[:, 1:] & predicts.to(mask.device))

    return Task(padded(token_lists), of_answers, token_lists)


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


def _losses(
    logits: torch.Tensor, tokens: torch.Tensor, mask: torch.Tensor, rows: np.ndarray
) -> torch.Tensor:
    del rows
    return next_token_losses(logits, tokens, mask)


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
