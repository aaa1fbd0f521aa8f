"""Forward passes over one batch, several interventions in each."""

from collections.abc import Callable, Iterator

import torch
from jaxtyping import Bool, Float, Int

from tl_modules.models.batches import uploaded
from tl_modules.models.hooked_model import FwdHooks, HookedModel
from tl_modules.models.runs import forward

HooksOfCopies = Callable[[int, int], FwdHooks]
"""``hooks(first, last)``: the hooks of interventions ``first`` to ``last``, of which each acts on
its own copy of a batch. ``CopyEdits.hooks`` is one."""


def no_hooks(first: int, last: int) -> FwdHooks:
    """No intervention on any copy."""
    del first, last
    return []


def passes_over_copies(
    model: HookedModel,
    tokens: Int[torch.Tensor, "batch pos"],
    mask: Bool[torch.Tensor, "batch pos"] | None,
    n_runs: int,
    hooks: HooksOfCopies,
    max_rows: int,
) -> Iterator[Float[torch.Tensor, "_copies pos vocab"]]:
    """The logits of a batch under each intervention.

    Several interventions share a forward pass: the batch is repeated as often as ``max_rows``
    allows, and each copy gets its own intervention.

    Args:
        model: The model.
        tokens: Token ids, padded.
        mask: True where a token is real; None leaves padding to the model.
        n_runs: The number of interventions.
        hooks: Makes the hooks of those that share a pass.
        max_rows: Rows of a forward pass at most, unless the batch itself has more.

    Yields:
        The logits of one pass: the rows of its first intervention, then those of the next.
    """
    at_once = max(max_rows // len(tokens), 1)
    device = getattr(model.cfg, "device", None)
    tokens = uploaded(tokens, device)
    mask = None if mask is None else uploaded(mask, device)
    for first in range(0, n_runs, at_once):
        last = min(first + at_once, n_runs)
        copies = tokens.repeat(last - first, 1)
        masks = None if mask is None else mask.repeat(last - first, 1)
        yield forward(model, copies, masks, hooks(first, last))
