"""Collecting an activation matrix from caches that the user makes."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float

from tl_modules.activations.aggregate import Reduced, reduced, without_overflow
from tl_modules.activations.batch_values import joined
from tl_modules.activations.matrix import ActivationMatrix, check_finite
from tl_modules.errors import ModulesError
from tl_modules.model import HookedModel, checked_flat, model_name
from tl_modules.reading import Reading
from tl_modules.token_arrays import TokenArray, as_mask
from tl_modules.units import site_units


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
        self._values: list[Float[np.ndarray, "batch units"]] = []
        self._samples: list[pd.DataFrame] = []
        self._totals = np.zeros(self.units.n_coordinates)
        self._n_tokens = 0

    def add(
        self,
        cache: Mapping[str, torch.Tensor] | Any,
        attention_mask: TokenArray | None = None,
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
        mask = as_mask("attention_mask", attention_mask)
        if mask is None:
            shape = _cached(cache, self.names_filter[0]).shape[:2]
            mask = torch.ones(shape, dtype=torch.bool)
        frame = self._sample_frame(samples, len(mask))
        if not bool(mask.any(1).all()):
            raise ModulesError(
                f"Every sample should have at least one token; row "
                f"{int((~mask.any(1)).nonzero()[0, 0])} of the attention mask is empty. Drop that "
                "sample."
            )

        def reduce(wide: bool) -> Reduced:
            found: dict[str, Reduced] = {}
            for name, width, span in zip(
                self.names_filter, self.units.widths, self.units.spans, strict=True
            ):
                activation = checked_flat(_cached(cache, name).detach(), width * span, name)
                found[name] = reduced(activation, span, mask, self._reading.aggregate, wide=wide)
            return joined(found, self.units)

        self._append(without_overflow(reduce), mask, frame)

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

    def _append(self, found: Reduced, mask: torch.Tensor, samples: pd.DataFrame) -> None:
        """Add a batch's reduced activations, all of it or nothing."""
        lengths, values = mask.sum(1).numpy(), found.values.cpu().numpy()
        check_finite(values, self.units, samples.index.tolist())
        self._totals += found.sums.cpu().double().sum(0).numpy()
        self._n_tokens += int(lengths.sum())
        self._values.append(values)
        self._samples.append(samples.assign(n_tokens=lengths))

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
