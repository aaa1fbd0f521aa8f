"""A forget gradient without what speaks against retention."""

import torch
from jaxtyping import Float

from tl_modules.errors import ModulesError, check_type
from tl_modules.runtime.arguments import checked


@checked
def rectified(
    forget: Float[torch.Tensor, " entries"], retain: Float[torch.Tensor, " entries"]
) -> Float[torch.Tensor, " entries"]:
    """Turn a forget gradient so that following it does not raise the retain loss.

    GRU (Wang et al. 2025, "GRU: Mitigating the Trade-off between Unlearning and Retention for
    LLMs", arXiv 2503.09117, sections 3.1 and 3.2). ``g_u`` is the gradient of the unlearning
    objective and ``g_r`` that of the retain loss; both are minimised. The nearest gradient ``g``
    to ``g_u`` with ``<g, g_r> >= 0``, so that a small step against it does not raise the retain
    loss, is ``g_u`` where ``<g_u, g_r> >= 0`` and else::

        g = g_u - (<g_u, g_r> / |g_r|^2) g_r

    It holds to first order and for plain gradient descent: an optimizer that rescales entries, as
    Adam does, takes another step.

    Args:
        forget: ``g_u``, a vector; not the gradient of the forget set's loss but of what is
            minimised to forget it, such as minus that loss.
        retain: ``g_r``, of the same length.

    Returns:
        ``g``, a vector of ``forget``'s dtype: ``forget`` itself where the two do not conflict.

    Raises:
        ModulesError: If they are no tensors, or have different lengths.

    >>> rectified(torch.tensor([-1.0, 2.0]), torch.tensor([3.0, 0.0])).tolist()
    [0.0, 2.0]
    """
    for name, value in (("forget", forget), ("retain", retain)):
        check_type(value, torch.Tensor, f"{name} should be a tensor", f"Pass torch.tensor({name}).")
    if forget.shape != retain.shape:
        raise ModulesError(
            f"forget and retain should be gradients by the same entries; they have shapes "
            f"{tuple(forget.shape)} and {tuple(retain.shape)}. Flatten both alike."
        )
    if not retain.any():
        return forget
    wide = torch.promote_types(torch.promote_types(forget.dtype, retain.dtype), torch.float32)
    # By its largest entry first: the squares of small ones are 0, those of large ones infinite.
    direction = retain.to(wide) / retain.abs().max()
    direction = direction / direction.norm()
    conflict = forget.to(wide) @ direction
    if conflict >= 0:
        return forget
    return (forget.to(wide) - conflict * direction).to(forget.dtype)
