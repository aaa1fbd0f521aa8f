"""Weight tokens in an unlearning loss (SatImp)."""

import math

import torch
from jaxtyping import Float

from tl_modules.errors import ModulesError, check_type
from tl_modules.runtime.arguments import checked


@checked
def satimp_weights(
    probabilities: Float[torch.Tensor, "..."], saturation: float = 1.0, importance: float = 1.0
) -> Float[torch.Tensor, "..."]:
    """Weight tokens in an unlearning loss, so that training forgets what is known and specific.

    The weights are SatImp's (Yang et al. 2025, "Exploring Criteria of Loss Reweighting to Enhance
    LLM Unlearning", arXiv 2505.11953, section 5). With ``p``, the model's present probability of a
    token::

        w = p ** saturation * (1 - p) ** importance

    The unlearning loss is minus the mean of ``w * nll``. The first factor is small for tokens that
    are already forgotten (saturation); the second is small for tokens that their context predicts
    anyway (importance). The paper uses the exponents 5 and 1 on TOFU, which its models memorised by
    fine-tuning. Most probabilities of a text that is not memorised are far below 1, and their fifth
    powers vanish; the defaults here are therefore 1 and 1.

    Args:
        probabilities: The model's probabilities of the tokens, from 0 to 1.
        saturation: The paper's beta 1; 0 drops the factor.
        importance: The paper's beta 2; 0 drops the factor.

    Returns:
        Weights from 0 to 1 in the same shape, without a gradient.

    Raises:
        ModulesError: If ``probabilities`` is no tensor, or an exponent is negative or not finite.

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
            raise ModulesError(f"{name} should be a finite number >= 0; got {value}. 1 is usual.")
    clamped = probabilities.detach().clamp(0, 1)  # rounding may leave a probability above 1
    return clamped**saturation * (1 - clamped) ** importance
