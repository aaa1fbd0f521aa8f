"""Compute the next-token loss of padded batches."""

import torch
from jaxtyping import Bool, Float, Int


def next_token_losses(
    logits: Float[torch.Tensor, "batch pos vocab"],
    tokens: Int[torch.Tensor, "batch pos"],
    mask: Bool[torch.Tensor, "batch pos"],
    starts: Int[torch.Tensor, " batch"] | None = None,
) -> Float[torch.Tensor, " batch"]:
    """Compute each prompt's mean next-token loss, in nats per token, without padding.

    Args:
        logits: The model's logits.
        tokens: The tokens that the model ran on.
        mask: True at real tokens.
        starts: See ``scored_tokens``.

    Returns:
        One loss per prompt; NaN for a prompt of one token, in which nothing is predicted.

    >>> uniform = torch.zeros(1, 3, 8)
    >>> ones = torch.ones(1, 3, dtype=torch.long)
    >>> round(next_token_losses(uniform, ones, ones.bool()).item(), 4)  # ln 8
    2.0794
    """
    losses = token_losses(logits, tokens, mask, starts)
    return losses.sum(1) / n_predicted(mask, starts).to(losses.device)


def token_losses(
    logits: Float[torch.Tensor, "batch pos vocab"],
    tokens: Int[torch.Tensor, "batch pos"],
    mask: Bool[torch.Tensor, "batch pos"],
    starts: Int[torch.Tensor, " batch"] | None = None,
) -> Float[torch.Tensor, "batch next"]:
    """Compute the loss of each token from the second on, in nats; 0 where it does not count.

    Args:
        logits: The model's logits.
        tokens: The tokens that the model ran on.
        mask: True at real tokens.
        starts: See ``scored_tokens``.

    Returns:
        One loss per token.
    """
    scored = scored_tokens(mask, starts).to(logits.device)
    predicted = logits[:, :-1].float()
    next_tokens = tokens[:, 1:].to(logits.device)
    of_next = predicted.gather(2, next_tokens[..., None]).squeeze(2)
    # Multiplying by 0 would keep NaN, which logits at padding may be.
    return (predicted.logsumexp(2) - of_next).masked_fill(~scored, 0)


def n_predicted(
    mask: Bool[torch.Tensor, "batch pos"], starts: Int[torch.Tensor, " batch"] | None = None
) -> Int[torch.Tensor, " batch"]:
    """Count the predicted tokens of each prompt whose loss counts; see ``scored_tokens``."""
    return scored_tokens(mask, starts).sum(1)


def scored_tokens(
    mask: Bool[torch.Tensor, "batch pos"], starts: Int[torch.Tensor, " batch"] | None = None
) -> Bool[torch.Tensor, "batch next"]:
    """Mark the tokens, from the second on, whose loss counts.

    Args:
        mask: True at real tokens.
        starts: The position of each prompt's first token whose loss counts; by default every real
            token that follows a real token counts.

    Returns:
        True where the loss counts, on the mask's device.

    >>> mask = torch.tensor([[True, True, True, False]])
    >>> scored_tokens(mask).tolist(), scored_tokens(mask, torch.tensor([2])).tolist()
    ([[True, True, False]], [[False, True, False]])
    """
    scored = mask[:, 1:] & mask[:, :-1]
    if starts is None:
        return scored
    positions = torch.arange(1, mask.shape[1], device=mask.device)
    return scored & (positions[None, :] >= starts.to(mask.device)[:, None])
