"""Losses of prompts while units are ablated."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float, Int

from tl_modules.hooks import stacked
from tl_modules.model import FwdHooks, HookedModel, forward
from tl_modules.tokens import Batch

Intervention = Callable[[Bool[torch.Tensor, "batch pos"] | None], FwdHooks]
"""Makes the hooks of an intervention on a batch, given its attention mask if it has padding."""


def no_intervention(mask: Bool[torch.Tensor, "batch pos"] | None) -> FwdHooks:
    """Leaves the model as it is."""
    del mask
    return []


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
    scored = (mask[:, 1:] & mask[:, :-1]).to(logits.device)
    predicted = logits[:, :-1].float()
    targets = tokens[:, 1:].to(logits.device)
    chosen = predicted.gather(2, targets[..., None]).squeeze(2)
    losses = (predicted.logsumexp(2) - chosen) * scored
    return losses.sum(1) / scored.sum(1)


def run_losses(
    model: HookedModel,
    batches: Sequence[Batch],
    runs: Sequence[Intervention],
    max_rows: int,
    done: Callable[[int], object] = lambda n_prompts: None,
) -> Float[np.ndarray, "runs prompts"]:
    """Each prompt's mean next-token loss under each intervention, in nats per token.

    Several interventions share a forward pass: the batch is stacked so many times as ``max_rows``
    allows, and each copy gets its own.

    Args:
        model: The model.
        batches: All prompts, padded.
        runs: The interventions.
        max_rows: Rows of a forward pass at most, where a batch itself is not larger.
        done: Told how many prompts were run, after each pass.

    Returns:
        One row an intervention, the prompts in their order.
    """
    losses = np.empty((len(runs), sum(len(batch.rows) for batch in batches)))
    for batch in batches:
        n_rows = len(batch.rows)
        at_once = max(max_rows // n_rows, 1)
        for first in range(0, len(runs), at_once):
            chosen = runs[first : first + at_once]
            tokens, mask = (part.repeat(len(chosen), 1) for part in (batch.tokens, batch.mask))
            # Padding needs no care where there is none.
            own = None if batch.mask.all() else batch.mask
            hooks = stacked([run(own) for run in chosen], n_rows)
            logits = forward(model, tokens, mask, hooks)
            found = next_token_losses(logits, tokens, mask).cpu().numpy()
            losses[first : first + len(chosen), batch.rows] = found.reshape(len(chosen), n_rows)
            done(len(tokens))
    return losses
