"""Collecting an activation matrix: from prompts, or from caches the user makes."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, overload

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Shaped
from tqdm.auto import tqdm

from tl_modules.activations.aggregate import Reduced, reduced, totals
from tl_modules.activations.matrix import ActivationMatrix, check_finite
from tl_modules.activations.prompt_tokens import prompt_tokens
from tl_modules.activations.store import ActivationStore, StoreWriter
from tl_modules.errors import ModulesError, check_at_least
from tl_modules.gradients import loss_gradients
from tl_modules.model import HookedModel, checked_flat, model_name, run_hooks_only
from tl_modules.reading import Reading
from tl_modules.tokens import Batch, batches, prompt_frame
from tl_modules.units import Units, site_units


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
        store: A new folder: write an ``ActivationStore`` there as the prompts run, instead of a
            matrix in memory. Its samples are in the order they ran, longest first; their column
            ``row`` is their place among the prompts.
        dtype: Of the store: ``"float16"`` or ``"bfloat16"``.
        progress: Show a progress bar.

    Returns:
        A matrix of shape ``[samples, units]``, float32, in the order of the prompts; with
        ``store``, that.

    Raises:
        ModulesError: If there is no prompt, one tokenises to nothing, the model has no such units,
            an option cannot be, or an activation is NaN or infinite.
    """
    reading = Reading(weight, aggregate, tokens, chat)
    frame = prompt_frame(prompts)
    collector = Collector(model, units, reading)
    # Before a store is made, so that a refused prompt leaves no folder behind.
    token_lists, counted = prompt_tokens(model, frame, reading, max_tokens)
    writer = None
    if store is not None:
        if weight == "attribution":
            raise ModulesError(
                "A store's 16 bits are too coarse for attributions, many of which are below 1e-7. "
                "Leave store out."
            )
        check_at_least("batch_size", batch_size, 1)
        writer = collector._into = ActivationStore.create(
            store, collector.units, dtype=dtype, model_name=model_name(model), reading=reading
        )
        frame = frame.assign(row=np.arange(len(frame)))
    reduce = _activations if weight == "activation" else _attributions
    order = []
    with tqdm(total=len(frame), desc="collect", unit="prompt", disable=not progress) as bar:
        for batch in batches(token_lists, batch_size, counted):
            found = reduce(model, batch, collector.units, aggregate)
            collector._append(found, batch.counted, frame.iloc[batch.rows])
            order.append(batch.rows)
            bar.update(len(batch.rows))
    if writer is not None:
        writer.unit_means = collector._unit_means()
        return writer.close()
    acts = collector.matrix()
    position = np.argsort(np.concatenate(order))
    return replace(
        acts,
        values=acts.values[position],
        samples=acts.samples.iloc[position].reset_index(drop=True),
    )


class Collector:
    """Gathers an activation matrix from activation caches that you already make.

    Example::

        collector = Collector(model, units="mlp")
        _, cache = model.run_with_cache(
            tokens, names_filter=collector.names_filter, attention_mask=mask
        )
        collector.add(cache, attention_mask=mask)
        acts = collector.matrix()
    """

    def __init__(
        self, model: HookedModel, units: str = "mlp", reading: Reading | None = None
    ) -> None:
        """Prepare for a model.

        Args:
            model: The model whose caches will be added.
            units: The site; see ``collect``.
            reading: How values come about; by default mean |activation| over all tokens. Its
                ``aggregate`` is what ``add`` does; ``tokens`` and ``chat`` say what you give it,
                so that matrices of different readings are not taken for alike.

        Raises:
            ModulesError: If the model has no such units, or they cannot be read so.
        """
        self.units = site_units(model, units)
        self._reading = Reading() if reading is None else reading
        if self._reading.aggregate == "fraction_active" and max(self.units.spans) > 1:
            raise ModulesError(
                "aggregate='fraction_active' needs units that can be inactive; the length of a "
                "head's output is always above 0. Use another aggregate, or units='attn_z'."
            )
        self.names_filter = list(self.units.hook_names)
        self._model_name = model_name(model)
        self._into: StoreWriter | None = None
        self._values: list[Float[np.ndarray, "batch units"]] = []
        self._samples: list[pd.DataFrame] = []
        self._totals = np.zeros(self.units.n_coordinates)
        self._n_tokens = 0

    def add(
        self,
        cache: Mapping[str, torch.Tensor] | Any,
        attention_mask: Shaped[torch.Tensor, "_batch _pos"] | None = None,
        samples: pd.DataFrame | Sequence[str] | None = None,
    ) -> None:
        """Add the samples of one cache.

        Args:
            cache: What ``run_with_cache`` returned, with its batch axis; it needs the hook points
                in ``names_filter``.
            attention_mask: 1 or True where a token counts: the real ones, padding on either side,
                or some of them (then say so in ``reading``). Without it every position counts.
            samples: One row (or prompt) a sample of the batch.

        Raises:
            ModulesError: If a hook point is missing, shapes do not fit, a sample has no token, or
                an activation is NaN or infinite. Nothing of the cache is added then.
        """
        if self._reading.weight != "activation":
            raise ModulesError(
                "A cache holds activations, no gradients. Use collect(..., weight='attribution')."
            )
        found: _AllReduced = {}
        if attention_mask is None:
            shape = _cached(cache, self.names_filter[0]).shape[:2]
            mask = torch.ones(shape, dtype=torch.bool)
        else:
            mask = torch.as_tensor(attention_mask).bool().cpu()
        frame = self._sample_frame(samples, len(mask))
        for name, width, span in zip(
            self.names_filter, self.units.widths, self.units.spans, strict=True
        ):
            activation = checked_flat(_cached(cache, name).detach(), width * span, name)
            found[name] = reduced(activation, span, mask, self._reading.aggregate)
        self._append(found, mask, frame)

    def matrix(self) -> ActivationMatrix:
        """Everything added so far, in the order added.

        Raises:
            ModulesError: If nothing was added.
        """
        if not self._values:
            raise ModulesError("Nothing was added to this Collector. Call add(cache) first.")
        return ActivationMatrix(
            np.concatenate(self._values),
            self.units,
            pd.concat(self._samples, ignore_index=True),
            self._unit_means(),
            self._model_name,
            reading=self._reading,
        )

    def _append(self, found: "_AllReduced", mask: torch.Tensor, samples: pd.DataFrame) -> None:
        """Add a batch's reduced activations, all of it or nothing."""
        lengths = mask.sum(1).numpy()
        values = np.concatenate([found[name].values for name in self.names_filter], axis=1)
        check_finite(values, self.units, samples.index.tolist())
        self._totals += np.concatenate([found[name].totals for name in self.names_filter])
        self._n_tokens += int(lengths.sum())
        samples = samples.assign(n_tokens=lengths)
        if self._into is not None:
            self._into.add(values, samples)
        else:
            self._values.append(values)
            self._samples.append(samples)

    def _unit_means(self) -> Float[np.ndarray, " units"]:
        return (self._totals / self._n_tokens).astype(np.float32)

    def _sample_frame(
        self, samples: pd.DataFrame | Sequence[str] | None, n_samples: int
    ) -> pd.DataFrame:
        """The batch's samples as a frame."""
        if samples is None:
            first = sum(map(len, self._values))
            return pd.DataFrame({"sample": np.arange(first, first + n_samples)})
        frame = (
            samples
            if isinstance(samples, pd.DataFrame)
            else pd.DataFrame({"prompt": list(samples)})
        )
        if len(frame) != n_samples:
            raise ModulesError(
                f"samples should have one row a sample of the cache, {n_samples}; it has "
                f"{len(frame)}. Pass the rows of this batch only."
            )
        return frame


def _cached(
    cache: Mapping[str, torch.Tensor] | Any, name: str
) -> Float[torch.Tensor, "batch pos *shape"]:
    """A cache's activation, by the name that was asked for (a bridge's cache has aliases too)."""
    try:
        activation = cache[name]
    except KeyError as error:
        raise ModulesError(
            f"The cache should hold {name!r} and does not. Pass "
            "names_filter=collector.names_filter to run_with_cache."
        ) from error
    return activation


_AllReduced = dict[str, Reduced]
"""By hook point."""


def _activations(model: HookedModel, batch: Batch, units: Units, aggregate: str) -> _AllReduced:
    """Each sample's aggregated |activation|, from a run that ends at the last hook point."""
    found: _AllReduced = {}

    def reader(name: str, width: int, span: int) -> Callable[[torch.Tensor], None]:
        def read(activation: torch.Tensor) -> None:
            activation = checked_flat(activation.detach(), width * span, name)
            found[name] = reduced(activation, span, batch.counted, aggregate)

        return read

    hooks = zip(units.hook_names, units.widths, units.spans, strict=True)
    readers = {name: reader(name, width, span) for name, width, span in hooks}
    run_hooks_only(model, batch.tokens, batch.mask, readers)
    return found


def _attributions(model: HookedModel, batch: Batch, units: Units, aggregate: str) -> _AllReduced:
    """Each sample's aggregated |activation x gradient of its summed loss|."""
    found: _AllReduced = {}
    activations, gradients = loss_gradients(model, batch.tokens, batch.mask, units.hook_names)
    for name, width, span in zip(units.hook_names, units.widths, units.spans, strict=True):
        activation, gradient = (
            checked_flat(of[name], width * span, name).float() for of in (activations, gradients)
        )
        # A unit's coordinates are silenced together: their products add up before the magnitude.
        products = (activation * gradient).unflatten(-1, (width, span)).sum(-1)
        values = reduced(products, 1, batch.counted, aggregate).values
        # Mean ablation's values stay activations.
        found[name] = Reduced(values, totals(activation, batch.counted))
    return found
