"""The next-token loss of padded batches."""

import torch
from jaxtyping import Bool, Float, Int


def next_token_losses(
    logits: Float[torch.Tensor, "batch pos vocab"],
    tokens: Int[torch.Tensor, "batch pos"],
    mask: Bool[torch.Tensor, "batch pos"],
) -> Float[torch.Tensor, " batch"]:
    """Each prompt's mean next-token loss, in nats per token; padding never counts.

    Args:
        logits: The model's logits.
        tokens: The tokens it ran on.
        mask: True where a token is real.

    Returns:
        One loss a prompt; NaN for a prompt of one token, where nothing is predicted.

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
    """Each token's loss from the second on, in nats; 0 where nothing is predicted.

    Args:
        logits: The model's logits.
        tokens: The tokens it ran on.
        mask: True where a token is real.

    Returns:
        One loss a token.
    """
    scored = _scored(mask).to(logits.device)
    predicted = logits[:, :-1].float()
    targets = tokens[:, 1:].to(logits.device)
    chosen = predicted.gather(2, targets[..., None]).squeeze(2)
    # Not times 0: what padding gives may be no number.
    return (predicted.logsumexp(2) - chosen).masked_fill(~scored, 0)


def n_predicted(mask: Bool[torch.Tensor, "batch pos"]) -> Int[torch.Tensor, " batch"]:
    """How many tokens of each prompt are predicted from others: all but the first."""
    return _scored(mask).sum(1)


def _scored(mask: Bool[torch.Tensor, "batch pos"]) -> Bool[torch.Tensor, "batch next"]:
    """Which positions, from the second on, hold a token that follows another."""
    return mask[:, 1:] & mask[:, :-1]
