"""Collecting an activation matrix: from prompts, or from caches the user makes."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, overload

import numpy as np
import pandas as pd
import torch
from einops import einsum
from jaxtyping import Bool, Float, Shaped
from tqdm.auto import tqdm

from tl_modules.activations.matrix import WEIGHTS, ActivationMatrix, check_finite
from tl_modules.activations.store import ActivationStore, StoreWriter
from tl_modules.errors import ModulesError, check_at_least, check_choice
from tl_modules.gradients import loss_gradients
from tl_modules.model import HookedModel, checked_flat, flat, model_name, run_hooks_only
from tl_modules.tokens import Batch, batches, prompt_frame, tokenise
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
    store: str | Path | None = None,
    dtype: str = "float16",
    progress: bool = True,
) -> ActivationMatrix | ActivationStore:
    """Run prompts through a model and keep, for each, every unit's mean |activation|.

    Prompts are sorted by length, padded on the right and run in batches; the mean runs over a
    prompt's own tokens (as ``model.to_tokens`` gives them), never over padding, so the matrix does
    not depend on the batch size or the tokenizer's padding side. Only the hook points needed are
    read, and the run ends at the last of them: no logits are computed.

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
        max_tokens: Cut prompts after so many tokens; None keeps the model's whole context.
        weight: What the values are: ``"activation"``, or ``"attribution"``: the mean over a
            prompt's tokens of |activation x gradient of the prompt's summed next-token loss by
            it|, in nats: about what setting the unit to 0 at one token does to the loss. It takes
            a backward pass, and memory for all layers' activations.
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
            or an activation is NaN or infinite.
    """
    check_choice("weight", weight, WEIGHTS)
    frame = prompt_frame(prompts)
    collector = Collector(model, units)
    writer = None
    if store is not None:
        if weight != "activation":
            raise ModulesError(
                "A store's 16 bits are too coarse for attributions, many of which are below 1e-7. "
                "Leave store out."
            )
        check_at_least("batch_size", batch_size, 1)
        writer = collector._into = ActivationStore.create(
            store, collector.units, dtype=dtype, model_name=model_name(model)
        )
        frame = frame.assign(row=np.arange(len(frame)))
    least = 1 if weight == "activation" else 2
    token_lists = tokenise(model, frame["prompt"].tolist(), max_tokens, least)
    reduce = _activations if weight == "activation" else _attributions
    order = []
    with tqdm(total=len(frame), desc="collect", unit="prompt", disable=not progress) as bar:
        for batch in batches(token_lists, batch_size):
            reduced = reduce(model, batch, collector.units)
            collector._append(reduced, batch.mask, frame.iloc[batch.rows])
            order.append(batch.rows)
            bar.update(len(batch.rows))
    if writer is not None:
        writer.unit_means = collector._unit_means()
        return writer.close()
    acts = collector.matrix()
    position = np.argsort(np.concatenate(order))
    return replace(
        acts,
        weight=weight,
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

    def __init__(self, model: HookedModel, units: str = "mlp") -> None:
        """Prepare for a model.

        Args:
            model: The model whose caches will be added.
            units: The site; see ``collect``.

        Raises:
            ModulesError: If the model has no such units.
        """
        self.units = site_units(model, units)
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
            attention_mask: 1 or True where a token is real, padding on either side; without it
                every position counts.
            samples: One row (or prompt) a sample of the batch.

        Raises:
            ModulesError: If a hook point is missing, shapes do not fit, a sample has no token, or
                an activation is NaN or infinite. Nothing of the cache is added then.
        """
        reduced: _AllReduced = {}
        if attention_mask is None:
            shape = _cached(cache, self.names_filter[0]).shape[:2]
            mask = torch.ones(shape, dtype=torch.bool)
        else:
            mask = torch.as_tensor(attention_mask).bool().cpu()
        frame = self._sample_frame(samples, len(mask))
        for name, width, span in zip(
            self.names_filter, self.units.widths, self.units.spans, strict=True
        ):
            _reduce_into(reduced, name, width, span, mask, _cached(cache, name))
        self._append(reduced, mask, frame)

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
        )

    def _append(self, reduced: "_AllReduced", mask: torch.Tensor, samples: pd.DataFrame) -> None:
        """Add a batch's reduced activations, all of it or nothing."""
        lengths = mask.sum(1).numpy()
        values = np.concatenate([reduced[name][0] for name in self.names_filter], axis=1)
        check_finite(values, self.units, samples.index.tolist())
        self._totals += np.concatenate([reduced[name][1] for name in self.names_filter])
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


_AllReduced = dict[str, "_Reduced"]
_Reduced = tuple[Float[np.ndarray, "_batch _width"], Float[np.ndarray, " _coordinates"]]
"""A hook point's mean |activation| per sample, and its signed sum over all tokens."""


def _activations(model: HookedModel, batch: Batch, units: Units) -> _AllReduced:
    """Each sample's mean |activation|, from a run that ends at the last hook point."""
    reduced: _AllReduced = {}
    readers = {
        name: partial(_reduce_into, reduced, name, width, span, batch.mask)
        for name, width, span in zip(units.hook_names, units.widths, units.spans, strict=True)
    }
    run_hooks_only(model, batch.tokens, batch.mask, readers)
    return reduced


def _attributions(model: HookedModel, batch: Batch, units: Units) -> _AllReduced:
    """Each sample's mean |activation x gradient of its summed loss|."""
    reduced: _AllReduced = {}
    activations, gradients = loss_gradients(model, batch.tokens, batch.mask, units.hook_names)
    for name, width, span in zip(units.hook_names, units.widths, units.spans, strict=True):
        _reduce_into(reduced, name, width, span, batch.mask, activations[name])
        totals = reduced[name][1]
        products = flat(activations[name].float() * gradients[name].float(), width * span)
        # A unit's coordinates are silenced together: their products add up before the magnitude.
        products = products.unflatten(-1, (width, span)).sum(-1)
        _reduce_into(reduced, name, width, 1, batch.mask, products)
        reduced[name] = (reduced[name][0], totals)  # mean ablation's values stay activations
    return reduced


def _reduce_into(
    reduced: _AllReduced,
    name: str,
    width: int,
    span: int,
    mask: Bool[torch.Tensor, "_batch _pos"],
    activation: Float[torch.Tensor, "batch pos *shape"],
) -> None:
    """Reduce one hook point's activation over each sample's own tokens, in float32."""
    if activation.shape[:2] != mask.shape:
        raise ModulesError(
            f"attention_mask should have the shape of the tokens, {tuple(activation.shape[:2])}; "
            f"it has {tuple(mask.shape)}."
        )
    if not bool(mask.any(1).all()):
        row = int((~mask.any(1)).nonzero()[0, 0])
        raise ModulesError(
            f"Every sample should have at least one token; row {row} of the attention mask is "
            "empty. Drop that sample."
        )
    weights = mask.to(activation.device, torch.float32)
    activation = checked_flat(activation.detach(), width * span, name).float()
    # Padding may hold NaN in some models: multiplying by 0 would keep it.
    activation = activation.masked_fill(~mask.to(activation.device)[..., None], 0)
    sizes = activation.abs() if span == 1 else activation.unflatten(-1, (-1, span)).norm(dim=-1)
    sums = einsum(weights, sizes, "batch pos, batch pos width -> batch width")
    means = sums / weights.sum(1, keepdim=True)
    totals = activation.sum((0, 1))
    reduced[name] = (means.cpu().numpy(), totals.cpu().numpy())
