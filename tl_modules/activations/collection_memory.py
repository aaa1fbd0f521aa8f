"""The memory that a collection takes, estimated before anything runs."""

from collections.abc import Sequence
from typing import NamedTuple

import torch

from tl_modules.activations.batch_runner import BatchRunner
from tl_modules.models.batches import Batch
from tl_modules.models.past_tokens import past_bytes
from tl_modules.runtime.memory import Size, check_memory, size_text


class NeededMemory(NamedTuple):
    """Estimated bytes in the machine's memory."""

    matrix: int
    """The whole matrix; 0 for a collection into a store."""

    rest: int
    """One chunk (two on a GPU), and one batch on its way through the model."""

    one_prompt: int
    """The part of the rest that the longest prompt's activations take, which ``chunk_tokens``
    limits; 0 with gradients, which need the whole prompt."""

    past: int
    """The part of the rest that keeps the keys and values of earlier tokens; 0 without
    ``chunk_tokens``, or where every prompt fits into one pass."""


def needed_memory(
    runner: BatchRunner, chunks: Sequence[Sequence[Batch]], *, into_store: bool
) -> NeededMemory:
    """Estimate what a collection takes beside the model's own run.

    Activations on a GPU are not counted: the GPU's memory is not the machine's, and a batch that
    does not fit there is halved.

    Args:
        runner: What runs the batches.
        chunks: The batches.
        into_store: Whether values go to a store rather than into a matrix.
    """
    model, units = runner.model, runner.units
    n_samples = [sum(len(batch.rows) for batch in chunk) for chunk in chunks]
    matrix = 0 if into_store else 4 * sum(n_samples) * len(units)
    # A store needs a chunk as float32 and, twice while it is encoded, as 16 bits.
    chunk_bytes = (4 + 4 * into_store) * max(n_samples) * len(units)
    n_prompts = max(len(batch.rows) for chunk in chunks for batch in chunk)
    batch_bytes = 4 * 2 * n_prompts * (len(units) + units.n_coordinates)
    chunk_bytes *= 1 + runner.n_ahead  # the next chunk begins before one is whole
    one_prompt = past = 0
    if torch.device(getattr(model.cfg, "device", None) or "cpu").type == "cpu":
        widths = [width * span for width, span in zip(units.widths, units.spans, strict=True)]
        # One hook point's activation is held at a time, but a backward pass needs all of them.
        held = sum(widths) if runner.reading.needs_gradients else max(widths)
        every = [batch for chunk in chunks for batch in chunk]
        n_tokens = max(len(batch.rows) * runner.at_once(batch) for batch in every)
        # Activations, what the hooks add and gradients; the probes' sum of squares besides.
        of_token = 4 * (4 if runner.reading.has_probes else 3) * held
        if not runner.reading.needs_gradients:
            one_prompt = of_token * max(map(runner.at_once, every))
        # Stretches keep the keys and values of the tokens before.
        long = [batch for batch in every if runner.at_once(batch) < batch.shape[1]]
        past = max((past_bytes(model, batch.tokens.numel()) for batch in long), default=0)
        batch_bytes += of_token * n_tokens + past
    return NeededMemory(matrix, chunk_bytes + batch_bytes, one_prompt, past)


def check_needed_memory(needed: NeededMemory, max_memory: Size | None, sharing: int = 1) -> None:
    """Refuse a collection that takes more memory than it may.

    Args:
        needed: The estimate.
        max_memory: The limit; see ``collect``.
        sharing: How many processes share this machine's memory.

    Raises:
        ModulesError: If the estimate is above the limit.
    """
    remedy = "Pass a smaller batch_size or max_tokens."
    if needed.one_prompt > needed.rest / 2:
        remedy = "Pass a smaller batch_size, max_tokens or chunk_tokens."
    if needed.past:
        kept = "the keys and values of earlier tokens, which chunk_tokens keeps"
        remedy = f"Of this, {size_text(needed.past)} is for {kept}. {remedy}"
    if needed.matrix > needed.rest:
        remedy = "Pass store=..., a folder: values then go to the disk as the prompts run."
    work = "Collecting, beside the model's own run,"
    check_memory(work, needed.matrix + needed.rest, max_memory, remedy, sharing)
