"""Means over each prompt's content tokens of what some hook points hold."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from tqdm.auto import tqdm

from tl_modules.activations.aggregate import left_out, reduced, without_overflow
from tl_modules.activations.device_values import reads_on_device
from tl_modules.errors import ModulesError
from tl_modules.models.batch_sizes import BatchSize, batch_size_for
from tl_modules.models.batches import Batch, batches
from tl_modules.models.content_tokens import content_masks
from tl_modules.models.hook_points import HookPoints
from tl_modules.models.hooked_model import HookedModel, checked_flat
from tl_modules.models.runs import run_hooks_only
from tl_modules.runtime.memory import check_memory

Quantity = Literal["size", "signed", "fraction_active"]
"""What is averaged. ``size``: a unit's |activation|, or its length if it has several coordinates.
``signed``: the activation of a unit of one coordinate. ``fraction_active``: 1 where it is above 0,
else 0."""

_Read = Callable[[torch.Tensor], None]


def prompt_means(
    model: HookedModel,
    wanted: Sequence[tuple[HookPoints, Quantity]],
    token_lists: Sequence[Int[torch.Tensor, " _pos"]],
    batch_size: BatchSize,
    *,
    progress: bool,
) -> tuple[list[Float[np.ndarray, "prompts _units"]], Int[np.ndarray, " prompts"]]:
    """Run prompts, and average quantities over the tokens that ``content_tokens`` marks.

    Args:
        model: The model.
        wanted: Hook points, each with the quantity to average there.
        token_lists: The tokens of each prompt.
        batch_size: Prompts in a pass.
        progress: Show a progress bar.

    Returns:
        One array per entry of ``wanted``, float32, with the units of its hook points in order; and
        each prompt's number of content tokens.

    Raises:
        ModulesError: If a prompt has no content token, an activation is not finite, or the means
            and a batch do not fit into the free memory.
    """
    batch_size = batch_size_for(model, batch_size, token_lists, logits=False)
    every = [points for points, _ in wanted]
    n_tokens = min(batch_size, len(token_lists)) * max(map(len, token_lists))
    _check_memory(model, every, len(token_lists), n_tokens)
    counted = content_masks(model, token_lists, batch_size)
    n_content = np.array([int(mask.sum()) for mask in counted])
    _check_content(n_content)
    means = [np.empty((len(token_lists), points.n_units), dtype=np.float32) for points in every]
    with tqdm(total=len(token_lists), desc="means", unit="prompt", disable=not progress) as bar:
        for batch in batches(token_lists, batch_size, counted):
            readers: dict[str, list[_Read]] = defaultdict(list)
            for (points, quantity), out in zip(wanted, means, strict=True):
                starts = np.cumsum((0, *points.widths)).tolist()
                for at, name in enumerate(points.names):
                    columns = slice(starts[at], starts[at + 1])
                    width = points.widths[at], points.spans[at]
                    readers[name].append(_reader(name, width, quantity, batch, out, columns))
            together = {name: _each(reads) for name, reads in readers.items()}
            run_hooks_only(model, batch.tokens, batch.mask, together)
            bar.update(len(batch.rows))
    if not all(np.isfinite(each).all() for each in means):
        raise ModulesError(
            "Activations should be finite; some are not on these prompts. Run the model in a wider "
            "dtype (float32)."
        )
    return means, n_content


def _check_memory(
    model: HookedModel, every: Sequence[HookPoints], n_prompts: int, n_tokens: int
) -> None:
    """Refuse means that, with a batch on its way through the model, do not fit into memory."""
    widths = [
        width * span for each in every for width, span in zip(each.widths, each.spans, strict=True)
    ]
    needed = 4 * n_prompts * sum(each.n_units for each in every)
    if not reads_on_device(model):
        # One hook point's activation is held at a time, with copies in float32, as in ``collect``.
        needed += 3 * 4 * n_tokens * max(widths)
    work = "Averaging over each prompt's content, beside the model's own run,"
    check_memory(work, needed, None, "Pass fewer prompts, or a smaller batch_size or max_tokens.")


def _check_content(n_content: Int[np.ndarray, " prompts"]) -> None:
    """Refuse prompts without a content token."""
    without = np.flatnonzero(n_content == 0)
    if len(without):
        raise ModulesError(
            f"Every prompt should have content tokens: ordinary ones after its first; prompt "
            f"{without[0]} has none. Drop or lengthen it."
        )


def _each(reads: Sequence[_Read]) -> _Read:
    """Give an activation to several readers."""

    def read(activation: torch.Tensor) -> None:
        for one in reads:
            one(activation)

    return read


def _reader(
    name: str,
    width: tuple[int, int],
    quantity: Quantity,
    batch: Batch,
    out: Float[np.ndarray, "prompts _units"],
    columns: slice,
) -> _Read:
    """Enter a batch's means at one hook point into some columns; ``width`` is units and span."""
    n_units, span = width
    counted: Bool[torch.Tensor, "batch pos"] = batch.counted
    left = left_out(counted, counted)
    aggregate = "fraction_active" if quantity == "fraction_active" else "mean"

    def read(activation: torch.Tensor) -> None:
        values = checked_flat(activation.detach(), n_units * span, name)
        found = without_overflow(
            lambda wide: reduced(values, span, counted, left, aggregate, wide=wide)
        )
        result = found.values
        if quantity == "signed":
            sums = found.sums[:, 0]
            result = sums / counted.sum(1, keepdim=True).to(sums.device)
        out[batch.rows, columns] = result.float().cpu().numpy()

    return read
