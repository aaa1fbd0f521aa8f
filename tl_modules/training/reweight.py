"""Weights of tokens in an unlearning loss."""

import math

import torch
from jaxtyping import Float

from tl_modules.errors import ModulesError, check_type
from tl_modules.runtime.arguments import checked


@checked
def satimp_weights(
    probabilities: Float[torch.Tensor, "..."], saturation: float = 1.0, importance: float = 1.0
) -> Float[torch.Tensor, "..."]:
    """How much each token counts in what is minimised to forget it.

    SatImp (Yang et al. 2025, "Exploring Criteria of Loss Reweighting to Enhance LLM Unlearning",
    arXiv 2505.11953, section 5): with ``p`` the model's present probability of a token, ::

        w = p ** saturation * (1 - p) ** importance

    and the unlearning loss is minus the mean of ``w * nll``. The first factor lets go of tokens
    that are forgotten already (saturation), the second passes over tokens that follow from their
    context anyway (importance). The paper's exponents on TOFU, which its models were fine-tuned to
    know by heart, are 5 and 1. A text that is not known by heart has most probabilities far below
    1, whose fifth powers vanish: the defaults here are 1 and 1, own choices.

    Args:
        probabilities: The model's of the tokens, from 0 to 1.
        saturation: The paper's beta 1; 0 leaves it out.
        importance: The paper's beta 2; 0 leaves it out.

    Returns:
        Weights from 0 to 1 of the same shape, which have no gradient.

    Raises:
        ModulesError: If the probabilities are no tensor, or an exponent is negative or no number.

    >>> satimp_weights(torch.tensor([0.5, 0.25]), saturation=2.0, importance=1.0).tolist()
    [0.125, 0.046875]
    """
    check_type(
        probabilities,
        torch.Tensor,
        "probabilities should be a tensor",
        "Pass torch.tensor(probabilities).",
    )
    for name, value in (("saturation", saturation), ("importance", importance)):
        if not (math.isfinite(value) and value >= 0):
            raise ModulesError(f"{name} should be a number from 0 on; got {value}. 1 is usual.")
    known = probabilities.detach().clamp(0, 1)  # rounding may leave one above 1
    return known**saturation * (1 - known) ** importance
