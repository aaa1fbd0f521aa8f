"""What is measured on each prompt: its loss, or how well the model gives its answer."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, Int

from tl_modules.errors import ModulesError, check_choice
from tl_modules.losses import next_token_losses
from tl_modules.model import HookedModel
from tl_modules.tokens import Batch, batches, tokenise

METRICS = ("loss", "answer_logprob", "answer_accuracy")
"""``loss``: mean next-token loss, nats per token. ``answer_logprob``: minus the log-probability of
the answer after the prompt, nats, summed over its tokens. ``answer_accuracy``: 1 where the model's
own choice differs from the answer in any token, else 0. The higher, the worse."""

Measure = Callable[
    [torch.Tensor, torch.Tensor, torch.Tensor, Int[np.ndarray, " batch"]],
    Float[torch.Tensor, " batch"],
]
"""``measure(logits, tokens, mask, rows)``: one number a row; ``rows`` are the prompts' numbers."""


@dataclass(frozen=True, eq=False)
class Task:
    """Prompts, padded, and what is measured on them."""

    batches: Sequence[Batch]
    measure: Measure


def make_task(
    model: HookedModel,
    frame: pd.DataFrame,
    metric: str,
    batch_size: int,
    max_tokens: int | None,
) -> Task:
    """Prepare prompts to be measured.

    Args:
        model: The model.
        frame: What ``prompt_frame`` returned, with ``answer`` for the answer metrics.
        metric: One of ``METRICS``.
        batch_size: Prompts in a batch.
        max_tokens: Cut prompts after so many tokens; not with answers, which would be cut off.

    Returns:
        The task.

    Raises:
        ModulesError: If the metric is unknown, a prompt has fewer than two tokens, or an answer is
            missing or changes how its prompt is tokenised.
    """
    check_choice("metric", metric, METRICS)
    if metric == "loss":
        token_lists = tokenise(model, frame["prompt"].tolist(), max_tokens, least=2)
        return Task(list(batches(token_lists, batch_size)), _losses)
    if max_tokens is not None:
        raise ModulesError(
            f"max_tokens goes with metric='loss'; with {metric!r} it would cut the answers off. "
            "Leave it out."
        )
    token_lists, starts = _with_answers(model, frame)
    measure = _error_rate if metric == "answer_accuracy" else _answer_surprise

    def of_answers(
        logits: torch.Tensor, tokens: torch.Tensor, mask: torch.Tensor, rows: np.ndarray
    ) -> torch.Tensor:
        positions = torch.arange(1, tokens.shape[1])
        predicts = positions[None, :] >= torch.from_numpy(starts[rows])[:, None]
        return measure(logits, tokens, (mask[:, 1:] & predicts).to(logits.device))

    return Task(list(batches(token_lists, batch_size)), of_answers)


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
    chosen = predicted.gather(2, targets[..., None]).squeeze(2)
    return ((predicted.logsumexp(2) - chosen) * answers).sum(1)


def _error_rate(
    logits: torch.Tensor, tokens: torch.Tensor, answers: Bool[torch.Tensor, "batch next"]
) -> torch.Tensor:
    """1 where the most likely token differs from the answer's anywhere."""
    wrong = logits[:, :-1].argmax(2) != tokens[:, 1:].to(logits.device)
    return (wrong & answers).any(1).float()


def _with_answers(
    model: HookedModel, frame: pd.DataFrame
) -> tuple[list[torch.Tensor], Int[np.ndarray, " prompts"]]:
    """Each prompt's tokens with its answer's, and the position where the answer begins."""
    if "answer" not in frame.columns:
        raise ModulesError(
            "The answer metrics need a column 'answer' beside 'prompt'. Add it, or use "
            "metric='loss'."
        )
    prompts = frame["prompt"].tolist()
    whole = []
    for row, (prompt, answer) in enumerate(zip(prompts, frame["answer"].tolist(), strict=True)):
        if not isinstance(answer, str) or not answer.strip():
            raise ModulesError(
                f"Every prompt should have an answer; prompt {row} has {answer!r}. Fill it in, or "
                "drop the prompt."
            )
        whole.append(f"{prompt.rstrip()} {answer.strip()}")
    token_lists = tokenise(model, whole)
    longest = getattr(model.cfg, "n_ctx", None) or np.inf
    starts = []
    for row, (alone, both) in enumerate(
        zip(tokenise(model, [prompt.rstrip() for prompt in prompts]), token_lists, strict=True)
    ):
        if len(both) >= longest:
            raise ModulesError(
                f"A prompt and its answer should fit the model's context of {longest} tokens; "
                f"prompt {row} may not. Shorten it."
            )
        if len(both) <= len(alone) or not torch.equal(both[: len(alone)], alone):
            raise ModulesError(
                f"The answer should follow its prompt as tokens of its own; with prompt {row} "
                f"({whole[row]!r}) it changes the prompt's tokens or is cut off. Reword it."
            )
        starts.append(len(alone))
    return token_lists, np.array(starts)
