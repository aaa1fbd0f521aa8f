"""Compute the next-token loss of padded batches."""

import torch
from jaxtyping import Bool, Float, Int


def next_token_losses(
    logits: Float[torch.Tensor, "batch pos vocab"],
    tokens: Int[torch.Tensor, "batch pos"],
    mask: Bool[torch.Tensor, "batch pos"],
) -> Float[torch.Tensor, " batch"]:
    """Compute each prompt's mean next-token loss, in nats per token, without padding.

    Args:
        logits: The model's logits.
        tokens: The tokens that the model ran on.
        mask: True at real tokens.

    Returns:
        One loss per prompt; NaN for a prompt of one token, in which nothing is predicted.

    >>> uniform = torch.zeros(1, 3, 8)
    >>> ones = torch.ones(1, 3, dtype=torch.long)
    >>> round(next_token_losses(uniform, ones, ones.bool()).item(), 4)  # ln 8
    2.0794
    """
    losses = token_losses(logits, tokens, mask)
    return losses.sum(1) / n_predicted(mask).to(losses.device)


def token_losses(
    logits: Float[torch.Tensor, "batch pos vocab"],
    tokens: Int[torch.Tensor, "batch pos"],
    mask: Bool[torch.Tensor, "batch pos"],
) -> Float[torch.Tensor, "batch next"]:
    """Compute the loss of each token from the second on, in nats; 0 at padding.

    Args:
        logits: The model's logits.
        tokens: The tokens that the model ran on.
        mask: True at real tokens.

    Returns:
        One loss per token.
    """
    scored = _scored(mask).to(logits.device)
    predicted = logits[:, :-1].float()
    next_tokens = tokens[:, 1:].to(logits.device)
    of_next = predicted.gather(2, next_tokens[..., None]).squeeze(2)
    # Multiplying by 0 would keep NaN, which logits at padding may be.
    return (predicted.logsumexp(2) - of_next).masked_fill(~scored, 0)


def n_predicted(mask: Bool[torch.Tensor, "batch pos"]) -> Int[torch.Tensor, " batch"]:
    """Count the predicted tokens of each prompt: all but the first."""
    return _scored(mask).sum(1)


def _scored(mask: Bool[torch.Tensor, "batch pos"]) -> Bool[torch.Tensor, "batch next"]:
    """Mark the positions, from the second on, of real tokens that follow a real token."""
    return mask[:, 1:] & mask[:, :-1]
