"""Collecting an activation matrix from prompts, in memory or into a store."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import overload

import numpy as np
import pandas as pd
import torch
from jaxtyping import Int
from tqdm.auto import tqdm

from tl_modules.activations.batch_runner import Room
from tl_modules.activations.chunk_values import chunks_of_batches, collected
from tl_modules.activations.collector import Collector
from tl_modules.activations.manifest import DTYPES, StoreDtype
from tl_modules.activations.matrix import ActivationMatrix
from tl_modules.activations.prompt_tokens import prompt_tokens
from tl_modules.activations.reading import Aggregate, CountedTokens, Reading, Weight
from tl_modules.activations.resumable import Plan, Unfinished, checksum
from tl_modules.activations.store import ActivationStore
from tl_modules.errors import ModulesError, check_at_least, check_choice
from tl_modules.interventions.measuring import check_unhooked, measures
from tl_modules.models.answers import with_separator
from tl_modules.models.batches import Batch
from tl_modules.models.fingerprint import fingerprint
from tl_modules.models.hooked_model import HookedModel, model_name
from tl_modules.runtime.arguments import checked
from tl_modules.runtime.memory import Size, check_memory
from tl_modules.runtime.processes import Ranks, together
from tl_modules.tables.columns import beside
from tl_modules.tables.frames import frame_to_json
from tl_modules.tables.prompt_frames import prompt_frame
from tl_modules.tables.prompt_tables import Prompts
from tl_modules.units import SiteName, Units


@overload
def collect(
    model: HookedModel,
    prompts: Prompts,
    *,
    units: SiteName | str = ...,
    batch_size: int = ...,
    max_tokens: int | None = ...,
    weight: Weight = ...,
    aggregate: Aggregate = ...,
    tokens: CountedTokens = ...,
    separator: str | None = ...,
    chat: bool = ...,
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
    batch_size: int = ...,
    max_tokens: int | None = ...,
    weight: Weight = ...,
    aggregate: Aggregate = ...,
    tokens: CountedTokens = ...,
    separator: str | None = ...,
    chat: bool = ...,
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
    batch_size: int = 16,
    max_tokens: int | None = None,
    weight: Weight = "activation",
    aggregate: Aggregate = "mean",
    tokens: CountedTokens = "all",
    separator: str | None = None,
    chat: bool = False,
    store: str | Path | None = None,
    dtype: StoreDtype = "float16",
    distributed: bool = False,
    max_memory: Size | None = None,
    progress: bool = True,
) -> ActivationMatrix | ActivationStore:
    """Run prompts through a model and keep, for each, every unit's mean |activation|.

    Prompts are sorted by length, padded on the right and run in batches; the mean (or what else
    ``aggregate`` says) runs over a prompt's own tokens (as ``model.to_tokens`` gives them), never
    over padding, so the matrix does not depend on the batch size or the tokenizer's padding side.
    Only the hook points needed are read, and the run ends at the last of them: no logits are
    computed. One hook point's activation is held at a time, with some copies in float32. A batch is
    padded to its longest prompt: beside one of 100,000 tokens, ``batch_size=1`` saves most memory.
    Under hooks (``with module.ablated(model):``) a matrix has what the model does under them.

    Args:
        model: A ``TransformerBridge``, ``HookedTransformer`` or any ``HookedModel``.
        prompts: Strings, or a frame with a column ``prompt``; other columns (``category``) stay
            with the samples. Beside them comes ``n_tokens``, how many tokens counted. A column of
            yours that has this name and other values stays, and the new one is ``tlm_n_tokens``,
            with a warning; so for ``row`` of a store.
        units: The site: ``"mlp"``, the neurons as the down-projection reads them;
            ``"attn_heads"``, attention heads, whose activation is the length of their output before
            the output projection; ``"attn_z"``, those outputs' dimensions; ``"resid"``, the
            dimensions of the residual stream after each layer; ``"sae"``, the latents of SAEs (see
            ``with_saes``); or several: ``"mlp+attn_heads"``.
        batch_size: Prompts in a forward pass.
        max_tokens: Cut prompts after so many tokens; None keeps the model's whole context. In chat
            form it cuts the prompt's own text, and a prompt that does not fit is refused.
        weight: What the values are: ``"activation"``, or ``"attribution"``: the mean over a
            prompt's tokens of |activation x gradient of the prompt's summed next-token loss by
            it|, in nats: about what setting the unit to 0 at one token does to the loss. It takes
            a backward pass, and memory for all layers' activations; not with tokens ``"last"`` or
            ``"answer"``, since nothing is predicted from a last token.
        aggregate: What becomes of a prompt's tokens: ``"mean"`` of |a|, ``"rms"``, ``"max"``, or
            ``"fraction_active"``, the share of tokens where the unit is above 0 (not for heads,
            whose lengths always are).
        tokens: Which tokens count: ``"all"``; ``"content"``, the prompt's own text without BOS and
            template; ``"last"``; ``"answer"``, those of the column ``answer``, which then follows
            the prompt exactly as given. Means for ablation are over the same tokens.
        separator: With ``tokens="answer"``, what stands between each prompt and its answer, such as
            ``" "``; by default what the prompts' column ``separator`` says, and nothing where there
            is none. It counts as part of the answer, and stands in the samples' column
            ``separator``. Not in chat form, where the template stands between the two.
        chat: Put each prompt into the tokenizer's chat template as the user's turn, up to where
            the reply begins (or, with ``tokens="answer"``, with the answer as the reply). Causal
            tests still run prompts as they are given.
        store: A folder: write an ``ActivationStore`` there as the prompts run, instead of a matrix
            in memory. The same call resumes an interrupted run, even one that was killed; it loses
            16 prompts at most, or a 32nd of a chunk (of 8 MB, or 128 prompts), and ends with the
            same bytes. On Ctrl-C the ``KeyboardInterrupt`` says how many prompts are kept. A
            finished store is returned as it is. The samples are in the order they ran, longest
            first; their column ``row`` is their place among the prompts. The same call means the
            same values of all weights, an SAE's too; of a model that lies partly on the disk only
            their names and shapes are compared. The model has no hooks but its own.
        dtype: Of the store: ``"float16"``, ``"bfloat16"`` or ``"float32"``, which keeps every value
            as it is and which attributions need.
        distributed: Share the store's chunks among the processes of ``torch.distributed``, which
            all make this call; the store has the same bytes as that of one process. Each holds the
            whole model.
        max_memory: What collecting may take beside the model's own run, in bytes or as a text such
            as ``"4 GB"``; by default what the machine has free. Where memory runs out all the same,
            a GPU's too, a batch is halved, with a warning, and the run goes on.
        progress: Show a progress bar.

    Returns:
        A matrix of shape ``[samples, units]``, float32, in the order of the prompts; with
        ``store``, that.

    Raises:
        ModulesError: If there is no prompt, one tokenises to nothing, the model has no such units
            or is in training mode, an option cannot be, an activation is NaN or infinite, it would
            take more memory than it may, or the store was begun with another model, other prompts
            or settings, is another process's, or is asked for while the model has hooks.
    """
    if store is None and distributed:
        raise ModulesError(
            "distributed=True needs a store, a folder that all processes write to; a matrix is one "
            "process's. Pass store='acts'."
        )
    reading = Reading(weight, aggregate, tokens, chat)
    with together(distributed) as ranks:
        answers = tokens == "answer"
        frame = with_separator(prompt_frame(prompts), separator, answers=answers, chat=chat)
        check_at_least("batch_size", batch_size, 1)
        read = Collector(model, units, reading).units
        if store is not None:
            check_unhooked(model)
        # Before a store is made, so that a refused prompt leaves no folder behind.
        token_lists, counted = prompt_tokens(model, frame, reading, max_tokens)
        chunks = chunks_of_batches(token_lists, counted, batch_size, len(read))
        room = Room(model, read, reading)
        needed = _needed(model, read, chunks, reading, into_store=store is not None)
        if store is None:
            _check_memory(needed, max_memory)
            return _in_memory(room, chunks, frame, progress=progress)
        plan = _plan(model, frame, chunks, read, reading, dtype, batch_size)
        ranks.told(lambda: _check_memory(needed, max_memory, ranks.on_machine))
        return _into_store(room, chunks, plan, store, ranks, progress=progress)


def _in_memory(
    room: Room, chunks: Sequence[Sequence[Batch]], frame: pd.DataFrame, *, progress: bool
) -> ActivationMatrix:
    """Run all chunks, and put the values into the order of the prompts."""
    units = room.units
    values = np.empty((len(frame), len(units)), dtype=np.float32)
    n_tokens, totals = np.empty(len(frame), dtype=np.int64), np.zeros(units.n_coordinates)
    with _bar(len(frame), shown=progress) as bar:
        for chunk in chunks:
            found = collected(room, chunk, bar.update)
            rows = _rows(chunk)
            values[rows], n_tokens[rows] = found.values, _lengths(chunk)
            totals += found.totals
            del found  # or it would be there beside the next one
    return ActivationMatrix(
        values,
        units,
        beside(frame, {"n_tokens": n_tokens}, warn=True),
        (totals / n_tokens.sum()).astype(np.float32),
        model_name(room.model),
        reading=room.reading,
    )


def _needed(
    model: HookedModel,
    units: Units,
    chunks: Sequence[Sequence[Batch]],
    reading: Reading,
    *,
    into_store: bool,
) -> tuple[int, int]:
    """Bytes that collecting takes in the machine's memory: the matrix, and all else.

    On a GPU a hook point's activation is not there; a batch that does not fit is halved then.
    """
    n_samples = [sum(len(batch.rows) for batch in chunk) for chunk in chunks]
    matrix = 0 if into_store else 4 * sum(n_samples) * len(units)
    a_chunk = (4 + 4 * into_store) * max(n_samples) * len(units)  # as bits, twice as it is coded
    n_prompts = max(len(batch.rows) for chunk in chunks for batch in chunk)
    passing = 4 * 2 * n_prompts * (len(units) + units.n_coordinates)
    if torch.device(getattr(model.cfg, "device", None) or "cpu").type == "cpu":
        widths = [width * span for width, span in zip(units.widths, units.spans, strict=True)]
        held = max(widths) if reading.weight == "activation" else sum(widths)  # gradients need all
        n_tokens = max(batch.tokens.numel() for chunk in chunks for batch in chunk)
        passing += 4 * 3 * n_tokens * held
    return matrix, a_chunk + passing


def _check_memory(needed: tuple[int, int], max_memory: Size | None, sharing: int = 1) -> None:
    """Refuse what will not fit."""
    matrix, rest = needed
    remedy = "Pass a smaller batch_size or max_tokens."
    if matrix > rest:
        remedy = "Pass store=..., a folder: values then go to the disk as the prompts run."
    what = "Collecting, beside the model's own run,"
    check_memory(what, matrix + rest, max_memory, remedy, sharing)


def _rows(chunk: Sequence[Batch]) -> Int[np.ndarray, " samples"]:
    """Which prompts a chunk holds."""
    return np.concatenate([batch.rows for batch in chunk])


def _lengths(chunk: Sequence[Batch]) -> Int[np.ndarray, " samples"]:
    """How many tokens of each of them count."""
    return np.concatenate([batch.counted.sum(1).numpy() for batch in chunk])


def _bar(total: int, *, done: int = 0, of: str = "", shown: bool) -> tqdm:
    """The bar of a run."""
    return tqdm(total=total, initial=done, desc=f"collect{of}", unit="prompt", disable=not shown)


def _plan(
    model: HookedModel,
    frame: pd.DataFrame,
    chunks: Sequence[Sequence[Batch]],
    units: Units,
    reading: Reading,
    dtype: StoreDtype,
    batch_size: int,
) -> Plan:
    """What the store will hold, and what another run of it should agree in."""
    check_choice("dtype", dtype, DTYPES)
    if reading.weight == "attribution" and dtype != "float32":
        raise ModulesError(
            f"A store of attributions should be float32, for many are below 1e-7; got {dtype!r}. "
            "Pass dtype='float32'."
        )
    frame_to_json(frame)  # refused now, before the folder is made
    rows = np.concatenate([_rows(chunk) for chunk in chunks])
    n_tokens = np.concatenate([_lengths(chunk) for chunk in chunks])
    ordered = frame.iloc[rows].reset_index(drop=True)
    runs = [batch for chunk in chunks for batch in chunk]
    tokens = [part.numpy().tobytes() for b in runs for part in (b.tokens, b.mask, b.counted)]
    return Plan(
        units=units,
        samples=beside(ordered, {"row": rows, "n_tokens": n_tokens}, warn=True),
        sizes=[sum(len(batch.rows) for batch in chunk) for chunk in chunks],
        dtype=dtype,
        reading=reading,
        model_name=model_name(model),
        told_by={
            "the model's weights": fingerprint(model),
            "tokens": checksum(*tokens),  # the tokenizer's, and max_tokens'
            "batch_size": str(batch_size),
        },
    )


def _into_store(
    room: Room,
    chunks: Sequence[Sequence[Batch]],
    plan: Plan,
    store: str | Path,
    ranks: Ranks,
    *,
    progress: bool,
) -> ActivationStore:
    """Run the chunks that are not in the store yet, those of this rank."""
    with Unfinished(store, plan, ranks) as unfinished:
        missing = unfinished.missing()
        own = missing[ranks.rank :: ranks.world]
        n_own, n_missing = (sum(plan.sizes[number] for number in of) for of in (own, missing))
        done = len(plan.samples) - n_missing
        of = "" if ranks.world == 1 else f", rank 0 of {ranks.world}"
        with _bar(done + n_own, done=done, of=of, shown=progress and ranks.is_first) as bar:
            for number in own:
                begun = unfinished.begun(number, chunks[number])
                bar.update(0 if begun is None else len(begun.values))
                keep = partial(unfinished.keep, number)
                found = collected(room, chunks[number], bar.update, begun, keep)
                unfinished.write(number, found.values, found.totals, found.n_tokens)
                del begun, found  # or they would be there beside the next one
        return unfinished.finish()
