"""Forward passes over one batch, several interventions in each."""

from collections.abc import Iterable, Iterator
from itertools import islice

import torch
from jaxtyping import Bool, Float, Int

from tl_modules.interventions.stacking import stacked
from tl_modules.models.hooked_model import FwdHooks, HookedModel
from tl_modules.models.runs import forward


def stacked_passes(
    model: HookedModel,
    tokens: Int[torch.Tensor, "batch pos"],
    mask: Bool[torch.Tensor, "batch pos"] | None,
    runs: Iterable[FwdHooks],
    max_rows: int,
) -> Iterator[Float[torch.Tensor, "_copies pos vocab"]]:
    """The logits of a batch under each intervention.

    Several interventions share a forward pass: the batch is repeated as often as ``max_rows``
    allows, and each copy gets its own intervention.

    Args:
        model: The model.
        tokens: Token ids, padded.
        mask: True where a token is real; None leaves padding to the model.
        runs: The hooks of each intervention, taken as they are needed.
        max_rows: Rows of a forward pass at most, unless the batch itself has more.

    Yields:
        The logits of one pass: the rows of its first intervention, then those of the next.
    """
    n_rows = len(tokens)
    at_once = max(max_rows // n_rows, 1)
    remaining = iter(runs)
    while group := list(islice(remaining, at_once)):
        copies = tokens.repeat(len(group), 1)
        masks = None if mask is None else mask.repeat(len(group), 1)
        yield forward(model, copies, masks, stacked(group, n_rows))
