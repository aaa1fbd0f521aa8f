"""Rectify a forget gradient that conflicts with the retain gradient (GRU)."""

import torch
from jaxtyping import Float

from tl_modules.errors import ModulesError, check_type
from tl_modules.runtime.arguments import checked


@checked
def rectified(
    forget: Float[torch.Tensor, " entries"], retain: Float[torch.Tensor, " entries"]
) -> Float[torch.Tensor, " entries"]:
    """Change a forget gradient so that a step along it does not increase the retain loss.

    The rule is GRU's (Wang et al. 2025, "GRU: Mitigating the Trade-off between Unlearning and
    Retention for LLMs", arXiv 2503.09117, sections 3.1 and 3.2). ``g_u`` is the gradient of the
    unlearning objective and ``g_r`` the gradient of the retain loss; both are minimised. The result
    is the gradient ``g`` nearest to ``g_u`` with ``<g, g_r> >= 0``. If ``<g_u, g_r> >= 0``, it is
    ``g_u``; otherwise it is::

        g = g_u - (<g_u, g_r> / |g_r|^2) g_r

    The guarantee holds to first order and for plain gradient descent. An optimizer that rescales
    entries, as Adam does, takes a different step.

    Args:
        forget: The vector ``g_u``: the gradient of the objective that is minimised in order to
            forget, such as minus the forget set's loss.
        retain: The vector ``g_r``, of the same length.

    Returns:
        The vector ``g`` in the dtype of ``forget``; it is ``forget`` itself if there is no
        conflict.

    Raises:
        ModulesError: If an argument is no tensor, or the lengths differ.

    >>> rectified(torch.tensor([-1.0, 2.0]), torch.tensor([3.0, 0.0])).tolist()
    [0.0, 2.0]
    """
    for name, value in (("forget", forget), ("retain", retain)):
        check_type(value, torch.Tensor, f"{name} should be a tensor", f"Pass torch.tensor({name}).")
    if forget.shape != retain.shape:
        raise ModulesError(
            f"forget and retain should be gradients with respect to the same entries; they have "
            f"shapes {tuple(forget.shape)} and {tuple(retain.shape)}. Flatten both in the same way."
        )
    if not retain.any():
        return forget
    wide = torch.promote_types(torch.promote_types(forget.dtype, retain.dtype), torch.float32)
    # Dividing by the largest entry first keeps squares from underflowing or overflowing.
    direction = retain.to(wide) / retain.abs().max()
    direction = direction / direction.norm()
    conflict = forget.to(wide) @ direction
    if conflict >= 0:
        return forget
    return (forget.to(wide) - conflict * direction).to(forget.dtype)
