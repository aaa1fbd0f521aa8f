"""Collecting an activation matrix from prompts, in memory or into a store."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import overload

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from tl_modules.activations._half import StoreDtype
from tl_modules.activations.batch_runner import BatchRunner
from tl_modules.activations.chunk_runs import ChunkJob, collect_chunks
from tl_modules.activations.chunk_values import chunk_lengths, chunk_rows, chunks_of_batches
from tl_modules.activations.collection_memory import check_needed_memory, needed_memory
from tl_modules.activations.collection_plan import Plan, plan_collection
from tl_modules.activations.matrix import ActivationMatrix
from tl_modules.activations.prompt_tokens import prompt_tokens
from tl_modules.activations.readable_units import readable_units
from tl_modules.activations.reading import Aggregate, CountedTokens, Reading, Weight
from tl_modules.activations.resumable import UnfinishedStore
from tl_modules.activations.store import ActivationStore
from tl_modules.activations.stretches import check_chunk_tokens, check_stretches
from tl_modules.activations.token_sums import TokenSums
from tl_modules.errors import ModulesError
from tl_modules.interventions.measuring import check_unhooked, measures
from tl_modules.models.answers import with_separator
from tl_modules.models.batch_sizes import BatchSize, batch_size_of, check_batch_size
from tl_modules.models.batches import Batch
from tl_modules.models.hooked_model import HookedModel, model_name
from tl_modules.models.loss_tokens import LossOn
from tl_modules.models.sites import SiteName
from tl_modules.runtime.arguments import checked
from tl_modules.runtime.memory import Size
from tl_modules.runtime.processes import Processes, process_group
from tl_modules.tables.columns import beside
from tl_modules.tables.prompt_frames import prompt_frame
from tl_modules.tables.prompt_tables import Prompts

STORE_BATCH = 32
"""Prompts per forward pass of a run into a store, unless the caller says how many."""


@overload
def collect(
    model: HookedModel,
    prompts: Prompts,
    *,
    units: SiteName | str = ...,
    batch_size: BatchSize = ...,
    max_tokens: int | None = ...,
    chunk_tokens: int | None = ...,
    weight: Weight = ...,
    loss_on: LossOn = ...,
    probe_seed: int = ...,
    aggregate: Aggregate = ...,
    tokens: CountedTokens = ...,
    separator: str | None = ...,
    chat: bool = ...,
    system: str | None = ...,
    store: None = None,
    dtype: StoreDtype = ...,
    distributed: bool = ...,
    max_memory: Size | None = ...,
    progress: bool = ...,
) -> ActivationMatrix: ...


@overload
def collect(
    model: HookedModel,
    prompts: Prompts,
    *,
    units: SiteName | str = ...,
    batch_size: BatchSize = ...,
    max_tokens: int | None = ...,
    chunk_tokens: int | None = ...,
    weight: Weight = ...,
    loss_on: LossOn = ...,
    probe_seed: int = ...,
    aggregate: Aggregate = ...,
    tokens: CountedTokens = ...,
    separator: str | None = ...,
    chat: bool = ...,
    system: str | None = ...,
    store: str | Path,
    dtype: StoreDtype = ...,
    distributed: bool = ...,
    max_memory: Size | None = ...,
    progress: bool = ...,
) -> ActivationStore: ...


@checked
@measures
def collect(  # noqa: PLR0913 - the options of one run, all by keyword
    model: HookedModel,
    prompts: Prompts,
    *,
    units: SiteName | str = "mlp",
    batch_size: BatchSize = "auto",
    max_tokens: int | None = None,
    chunk_tokens: int | None = None,
    weight: Weight = "activation",
    loss_on: LossOn = "prompt",
    probe_seed: int = 0,
    aggregate: Aggregate = "mean",
    tokens: CountedTokens = "all",
    separator: str | None = None,
    chat: bool = False,
    system: str | None = None,
    store: str | Path | None = None,
    dtype: StoreDtype = "float16",
    distributed: bool = False,
    max_memory: Size | None = None,
    progress: bool = True,
) -> ActivationMatrix | ActivationStore:
    """Run prompts through a model and return how strongly each prompt drives each unit.

    ``discover`` finds modules in the result. A value is the unit's mean |activation| over the
    prompt's tokens; padding never counts, so values do not depend on ``batch_size``. The page "What
    to read" compares the options; "More prompts and units than memory holds" explains stores.

    Example::

        acts = tlm.collect(model, ["Two plus two is", "Paris is in"])
        modules = tlm.discover(acts, n_modules=2)

    Args:
        model: A ``TransformerBridge``, ``HookedTransformer`` or other ``HookedModel``.
        prompts: Strings, or a frame with a column ``prompt``.
        units: The site: ``"mlp"``, ``"attn_heads"``, ``"attn_z"``, ``"resid"`` or ``"sae"``; join
            several with ``+``.
        batch_size: Prompts per forward pass; ``"auto"``: as many as fit into half of the free
            memory, at most 16 on a CPU and 512 on a GPU; into a store 32.
        max_tokens: Truncate prompts to this many tokens; None for the model's context.
        chunk_tokens: Run longer prompts by this many tokens at a time with the model's key-value
            cache, which bounds memory; equal but for rounding. None: each prompt in one pass.
        weight: ``"activation"``, or a unit's effect by gradients, which the page compares:
            ``"attribution"``, ``"top_logit"``, ``"effect"``, ``"activation_effect"``.
        loss_on: The loss of ``"attribution"``: of the ``"prompt"``, the ``"answer"`` or ``"all"``.
        probe_seed: Draws the probes of the last two.
        aggregate: Reduction over tokens: ``"mean"``, ``"rms"``, ``"max"`` or ``"fraction_active"``.
        tokens: Tokens that count: ``"all"``, ``"content"``, ``"last"`` or ``"answer"``.
        separator: Text between prompt and answer; default: column ``separator``.
        chat: Put each prompt into the chat template.
        system: The template's system prompt; default: the template's own, if any.
        store: Folder for an ``ActivationStore``; the same call resumes a run.
        dtype: Number format of the store: ``"float16"``, ``"bfloat16"`` or ``"float32"``.
        distributed: Share the work among ``torch.distributed`` processes.
        max_memory: Limit beyond the model's own run, in bytes or as ``"4 GB"``; by default free
            memory.
        progress: Show a progress bar.

    Returns:
        An ``ActivationMatrix``, shape ``[samples, units]``, float32, in the prompts' order; with
        ``store``, an ``ActivationStore``.

    Raises:
        ModulesError: If an argument is not valid, memory is too small, or an activation is not
            finite.
    """
    if store is None and distributed:
        raise ModulesError(
            "distributed=True needs a store, a folder that all processes write to; one process "
            "holds a matrix. Pass store='acts'."
        )
    reading = Reading(weight, aggregate, tokens, chat, probe_seed, system, loss_on)
    with process_group(distributed) as processes:
        answers = reading.reads_answers
        frame = with_separator(prompt_frame(prompts), separator, answers=answers, chat=chat)
        check_batch_size(batch_size)
        check_chunk_tokens(chunk_tokens, reading)
        site_units = readable_units(model, units, reading)
        if store is not None:
            check_unhooked(model)
        # Prompts are tokenised before the folder is made: a refused prompt leaves no folder behind.
        found = prompt_tokens(model, frame, reading, max_tokens)
        token_lists = found.token_lists
        check_stretches(model, site_units, token_lists, chunk_tokens)
        if store is not None and batch_size == "auto":
            # A run into a store is resumed with the same size, on any device, whatever is free.
            batch_size = STORE_BATCH
        needs = reading.needs_gradients
        longest = max(map(len, token_lists))
        batch_size = batch_size_of(
            *(model, batch_size, longest),
            logits=needs,
            gradients=needs,
            chunk_tokens=chunk_tokens,
        )
        starts = found.answer_starts if loss_on == "answer" else None
        chunks = chunks_of_batches(token_lists, found.counted, batch_size, len(site_units), starts)
        runner = BatchRunner(model, site_units, reading, chunk_tokens)
        needed = needed_memory(runner, chunks, into_store=store is not None)
        if store is None:
            check_needed_memory(needed, max_memory)
            return _in_memory(runner, chunks, frame, progress=progress)
        plan = plan_collection(runner, frame, chunks, dtype, batch_size)
        processes.from_first(lambda: check_needed_memory(needed, max_memory, processes.on_machine))
        return _into_store(runner, chunks, plan, store, processes, progress=progress)


def _in_memory(
    runner: BatchRunner, chunks: Sequence[Sequence[Batch]], frame: pd.DataFrame, *, progress: bool
) -> ActivationMatrix:
    """Run all chunks, and put the values into the order of the prompts."""
    units = runner.units
    values = np.empty((len(frame), len(units)), dtype=np.float32)
    n_tokens, totals = np.empty(len(frame), dtype=np.int64), TokenSums.none(units.n_coordinates)
    with _progress_bar(len(frame), shown=progress) as bar:
        gathered = collect_chunks(runner, map(ChunkJob, chunks), bar.update)
        for chunk in chunks:
            collected = next(gathered)
            rows = chunk_rows(chunk)
            values[rows], n_tokens[rows] = collected.values, chunk_lengths(chunk)
            totals += collected.totals
            del collected  # so that two chunks are never in memory at once
    return ActivationMatrix(
        values,
        units,
        beside(frame, {"n_tokens": n_tokens}, warn=True),
        totals.unit_means,
        model_name(runner.model),
        reading=runner.reading,
        content_means=totals.content_means,
    )


def _into_store(
    runner: BatchRunner,
    chunks: Sequence[Sequence[Batch]],
    plan: Plan,
    store: str | Path,
    processes: Processes,
    *,
    progress: bool,
) -> ActivationStore:
    """Run this process's share of the chunks that are not in the store yet."""
    with UnfinishedStore(store, plan, processes) as unfinished:
        missing = unfinished.missing()
        share = missing[processes.rank :: processes.world_size]
        n_share, n_missing = (
            sum(plan.sizes[number] for number in numbers) for numbers in (share, missing)
        )
        done = len(plan.samples) - n_missing
        of = "" if processes.world_size == 1 else f", rank 0 of {processes.world_size}"
        is_shown = progress and processes.is_first
        with _progress_bar(done + n_share, done=done, of=of, shown=is_shown) as bar:

            def job(number: int) -> ChunkJob:
                begun = unfinished.begun(number, chunks[number])
                bar.update(0 if begun is None else len(begun.values))
                return ChunkJob(chunks[number], begun, partial(unfinished.keep, number))

            gathered = collect_chunks(runner, map(job, share), bar.update)
            for number in share:
                collected = next(gathered)
                unfinished.write(number, collected.values, collected.totals)
                del collected  # so that two chunks are never in memory at once
        return unfinished.finish()


def _progress_bar(total: int, *, done: int = 0, of: str = "", shown: bool) -> tqdm:
    """A progress bar that counts prompts."""
    return tqdm(total=total, initial=done, desc=f"collect{of}", unit="prompt", disable=not shown)
