"""Numbers that a prompt's logits give, whose gradients say what units do to the logits."""

from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Bool, Float

N_PROBES = 8
"""Random probes of the logits. A matrix from two probes recovers the units of trained models less
well; each probe costs a backward pass."""

_OfLogits = Callable[[torch.Tensor], Float[torch.Tensor, " batch"]]


def top_logits(mask: Bool[torch.Tensor, "batch pos"]) -> _OfLogits:
    """The sum over a prompt's tokens of the largest logit.

    Args:
        mask: True at real tokens.

    Returns:
        Computes one number per prompt from the logits.
    """

    def summed(logits: Float[torch.Tensor, "batch pos vocab"]) -> Float[torch.Tensor, " batch"]:
        largest = logits.float().amax(-1)
        return largest.masked_fill(~mask.clone().to(logits.device), 0).sum(1)

    return summed


def logit_probes(mask: Bool[torch.Tensor, "batch pos"], seed: int) -> list[_OfLogits]:
    """Random projections of a prompt's logits, to estimate the size of a unit's effect on them.

    A probe is the sum over tokens and vocabulary of the logit times two random signs, one of the
    token's place and one of the vocabulary's entry. The products are uncorrelated, so the mean
    square of a direction's effect on a probe estimates the sum of its squared effects on all logits
    (Hutchinson 1990). The signs of the vocabulary are centred: a change that all logits share
    changes no prediction.

    Args:
        mask: True at real tokens; padding is on the right.
        seed: Draws the signs, of any vocabulary and length alike.

    Returns:
        Each computes one number per prompt from the logits.
    """

    def probe(number: int) -> _OfLogits:
        places = torch.from_numpy(_signs([seed, number, 0], mask.shape[1]))

        def projected(
            logits: Float[torch.Tensor, "batch pos vocab"],
        ) -> Float[torch.Tensor, " batch"]:
            entries = torch.from_numpy(_signs([seed, number, 1], logits.shape[-1]))
            entries = (entries - entries.mean()).to(logits.device)
            by_token = (logits.float() @ entries) * places.to(logits.device)
            return by_token.masked_fill(~mask.clone().to(logits.device), 0).sum(1)

        return projected

    return [probe(number) for number in range(N_PROBES)]


def _signs(key: list[int], n: int) -> Float[np.ndarray, " n"]:
    """Random signs; the first of more are the same."""
    drawn = np.random.default_rng(key).random(n) < 0.5
    return np.where(drawn, np.float32(1), np.float32(-1))
