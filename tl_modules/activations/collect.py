"""Collecting an activation matrix from prompts, in memory or into a store."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import overload

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from tl_modules.activations.batch_values import batch_values
from tl_modules.activations.collector import Collector
from tl_modules.activations.matrix import ActivationMatrix, check_finite
from tl_modules.activations.prompt_tokens import prompt_tokens
from tl_modules.activations.store import DTYPES, ActivationStore
from tl_modules.activations.unfinished import Plan, Unfinished, checksum
from tl_modules.errors import ModulesError, check_at_least, check_choice
from tl_modules.model import HookedModel, fingerprint, model_name
from tl_modules.reading import Reading
from tl_modules.tokens import Batch, batches, prompt_frame
from tl_modules.units import Units

_CHUNK_BYTES = 32 * 1024**2
"""What a killed run loses at most."""


@overload
def collect(
    model: HookedModel,
    prompts: Sequence[str] | pd.DataFrame,
    *,
    units: str = ...,
    batch_size: int = ...,
    max_tokens: int | None = ...,
    weight: str = ...,
    aggregate: str = ...,
    tokens: str = ...,
    chat: bool = ...,
    store: None = None,
    dtype: str = ...,
    progress: bool = ...,
) -> ActivationMatrix: ...


@overload
def collect(
    model: HookedModel,
    prompts: Sequence[str] | pd.DataFrame,
    *,
    units: str = ...,
    batch_size: int = ...,
    max_tokens: int | None = ...,
    weight: str = ...,
    aggregate: str = ...,
    tokens: str = ...,
    chat: bool = ...,
    store: str | Path,
    dtype: str = ...,
    progress: bool = ...,
) -> ActivationStore: ...


def collect(  # noqa: PLR0913 - the options of one run, all by keyword
    model: HookedModel,
    prompts: Sequence[str] | pd.DataFrame,
    *,
    units: str = "mlp",
    batch_size: int = 16,
    max_tokens: int | None = None,
    weight: str = "activation",
    aggregate: str = "mean",
    tokens: str = "all",
    chat: bool = False,
    store: str | Path | None = None,
    dtype: str = "float16",
    progress: bool = True,
) -> ActivationMatrix | ActivationStore:
    """Run prompts through a model and keep, for each, every unit's mean |activation|.

    Prompts are sorted by length, padded on the right and run in batches; the mean (or what else
    ``aggregate`` says) runs over a prompt's own tokens (as ``model.to_tokens`` gives them), never
    over padding, so the matrix does not depend on the batch size or the tokenizer's padding side.
    Only the hook points needed are read, and the run ends at the last of them: no logits are
    computed.

    Args:
        model: A ``TransformerBridge``, ``HookedTransformer`` or any ``HookedModel``.
        prompts: Strings, or a frame with a column ``prompt``; other columns (``category``) stay
            with the samples.
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
            the prompt. Means for ablation are over the same tokens.
        chat: Put each prompt into the tokenizer's chat template as the user's turn, up to where
            the reply begins. Causal tests still run prompts as they are given.
        store: A folder: write an ``ActivationStore`` there as the prompts run, instead of a matrix
            in memory. A run that was interrupted, killed even, is gone on with by the same call,
            from its last whole chunk (32 MB), and ends with the same bytes; a finished one is
            returned as it is. The samples are in the order they ran, longest first; their column
            ``row`` is their place among the prompts.
        dtype: Of the store: ``"float16"`` or ``"bfloat16"``.
        progress: Show a progress bar.

    Returns:
        A matrix of shape ``[samples, units]``, float32, in the order of the prompts; with
        ``store``, that.

    Raises:
        ModulesError: If there is no prompt, one tokenises to nothing, the model has no such units,
            an option cannot be, an activation is NaN or infinite, or the store was begun with
            another model, other prompts or settings, or is another process's.
    """
    reading = Reading(weight, aggregate, tokens, chat)
    frame = prompt_frame(prompts)
    check_at_least("batch_size", batch_size, 1)
    collector = Collector(model, units, reading)
    # Before a store is made, so that a refused prompt leaves no folder behind.
    token_lists, counted = prompt_tokens(model, frame, reading, max_tokens)
    runs = list(batches(token_lists, batch_size, counted))
    if store is not None:
        chunks = _chunked(runs, 2 * len(collector.units) * batch_size)
        plan = _plan(model, frame, chunks, collector.units, reading, dtype, batch_size)
        return _into_store(model, chunks, plan, store, progress=progress)
    with tqdm(total=len(frame), desc="collect", unit="prompt", disable=not progress) as bar:
        for batch in runs:
            found = batch_values(model, batch, collector.units, reading)
            collector._append(found, batch.counted, frame.iloc[batch.rows])
            bar.update(len(batch.rows))
    acts = collector.matrix()
    position = np.argsort(np.concatenate([batch.rows for batch in runs]))
    return replace(
        acts,
        values=acts.values[position],
        samples=acts.samples.iloc[position].reset_index(drop=True),
    )


def _chunked(runs: Sequence[Batch], batch_bytes: int) -> list[Sequence[Batch]]:
    """Whole batches, a chunk's worth at a time: who goes on runs the same ones."""
    step = max(1, _CHUNK_BYTES // batch_bytes)
    return [runs[start : start + step] for start in range(0, len(runs), step)]


def _plan(
    model: HookedModel,
    frame: pd.DataFrame,
    chunks: Sequence[Sequence[Batch]],
    units: Units,
    reading: Reading,
    dtype: str,
    batch_size: int,
) -> Plan:
    """What the store will hold, and what another run of it should agree in."""
    check_choice("dtype", dtype, DTYPES)
    if reading.weight == "attribution":
        raise ModulesError(
            "A store's 16 bits are too coarse for attributions, many of which are below 1e-7. "
            "Leave store out."
        )
    runs = [batch for chunk in chunks for batch in chunk]
    rows = np.concatenate([batch.rows for batch in runs])
    n_tokens = np.concatenate([batch.counted.sum(1).numpy() for batch in runs])
    tokens = [part.numpy().tobytes() for b in runs for part in (b.tokens, b.mask, b.counted)]
    return Plan(
        units=units,
        samples=frame.iloc[rows].assign(row=rows, n_tokens=n_tokens).reset_index(drop=True),
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
    model: HookedModel,
    chunks: Sequence[Sequence[Batch]],
    plan: Plan,
    store: str | Path,
    *,
    progress: bool,
) -> ActivationStore:
    """Run the chunks that are not in the store yet."""
    n_samples = len(plan.samples)
    with (
        Unfinished(store, plan) as unfinished,
        tqdm(total=n_samples, desc="collect", unit="prompt", disable=not progress) as bar,
    ):
        missing = unfinished.missing()
        bar.update(n_samples - sum(plan.sizes[number] for number in missing))
        for number in missing:
            values, totals, n_tokens = [], np.zeros(plan.units.n_coordinates), 0
            for batch in chunks[number]:
                found = batch_values(model, batch, plan.units, plan.reading)
                check_finite(found.values, plan.units, batch.rows.tolist())
                values.append(found.values)
                totals += found.totals
                n_tokens += int(batch.counted.sum())
                bar.update(len(batch.rows))
            unfinished.write(number, np.concatenate(values), totals, n_tokens)
        return unfinished.finish()
