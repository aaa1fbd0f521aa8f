"""Collecting an activation matrix from the user's own activation caches."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int

from tl_modules.activations.aggregate import Reduced, left_out, reduced, without_overflow
from tl_modules.activations.batch_values import joined
from tl_modules.activations.matrix import ActivationMatrix
from tl_modules.activations.readable_units import readable_units
from tl_modules.activations.reading import Reading
from tl_modules.activations.token_sums import ALL, CONTENT, TokenSums
from tl_modules.activations.value_checks import check_finite
from tl_modules.errors import ModulesError
from tl_modules.interventions.measuring import check_measurable
from tl_modules.models.hooked_model import HookedModel, cache_entry, checked_flat, model_name
from tl_modules.models.sites import SiteName
from tl_modules.models.token_arrays import TokenArray, as_mask
from tl_modules.tables.columns import beside
from tl_modules.tables.prompt_tables import sample_table


class Collector:
    """Builds an activation matrix from caches, for code that already runs the model.

    Example::

        collector = Collector(model, units="mlp")
        _, cache = model.run_with_cache(
            tokens, names_filter=collector.names_filter, attention_mask=mask
        )
        collector.add(cache, attention_mask=mask)
        acts = collector.matrix()
    """

    def __init__(
        self, model: HookedModel, units: SiteName | str = "mlp", reading: Reading | None = None
    ) -> None:
        """Prepare for a model.

        Args:
            model: The model whose caches will be added.
            units: The site; see ``collect``.
            reading: How values come about; by default mean |activation| over all tokens. ``add``
                computes its ``aggregate``. Its ``tokens``, ``chat`` and ``system`` describe the
                caches that you add; the matrix keeps them, so that different readings are not
                compared.

        Raises:
            ModulesError: If the model has no such units or is in training mode, or the reading
                does not apply to these units.
        """
        self._reading = Reading() if reading is None else reading
        self.units = readable_units(model, units, self._reading)
        check_measurable(model)
        self.names_filter = list(self.units.hook_names)
        self._model_name = model_name(model)
        self._values: list[Float[np.ndarray, "batch units"]] = []
        self._samples: list[pd.DataFrame] = []
        self._lengths: list[Int[np.ndarray, " batch"]] = []
        self._totals = TokenSums.none(self.units.n_coordinates)

    def add(
        self,
        cache: Mapping[str, torch.Tensor] | Any,
        attention_mask: TokenArray | None = None,
        samples: pd.DataFrame | Mapping[str, Sequence[Any]] | Sequence[str] | None = None,
    ) -> None:
        """Add the samples of one cache.

        Args:
            cache: What ``run_with_cache`` returned, with its batch axis. It must hold the hook
                points in ``names_filter``.
            attention_mask: 1 or True where a token counts. Padding may be on either side. If some
                real tokens do not count, say so in ``reading``. Without a mask every position
                counts.
            samples: A frame, columns by name, or a list of prompts; one row per sample of the
                batch.

        Raises:
            ModulesError: If a hook point is missing, shapes do not fit, a sample has no token, an
                activation is NaN or infinite, or a column of ``samples`` cannot be saved as JSON.
                In that case nothing from the cache is added.
        """
        if self._reading.needs_gradients:
            raise ModulesError(
                "A cache holds activations but no gradients. Use collect(..., "
                f"weight={self._reading.weight!r})."
            )
        mask = as_mask("attention_mask", attention_mask)
        if mask is None:
            shape = _cached(cache, self.names_filter[0]).shape[:2]
            mask = torch.ones(shape, dtype=torch.bool)
        # Samples without a description are numbered through all batches.
        first = sum(map(len, self._values))
        frame = sample_table(samples, "prompt", len(mask), first)
        if not bool(mask.any(1).all()):
            raise ModulesError(
                f"Every sample should have at least one token; row "
                f"{int((~mask.any(1)).nonzero()[0, 0])} of the attention mask is empty. Drop that "
                "sample."
            )

        # A cache holds no tokens, so that content is every token but the first of each sample.
        left = left_out(mask, mask & (mask.cumsum(1) > 1))

        def reduce(wide: bool) -> Reduced:
            by_hook: dict[str, Reduced] = {}
            for name, width, span in zip(
                self.names_filter, self.units.widths, self.units.spans, strict=True
            ):
                activation = checked_flat(_cached(cache, name).detach(), width * span, name)
                by_hook[name] = reduced(
                    activation, span, mask, left, self._reading.aggregate, wide=wide
                )
            return joined(by_hook, self.units)

        self._append(without_overflow(reduce), mask, frame)

    def matrix(self) -> ActivationMatrix:
        """The matrix of all samples added so far, in the order in which they were added.

        Its samples have a column ``n_tokens``, as those of ``collect`` have.

        Raises:
            ModulesError: If no samples were added.
        """
        if not self._values:
            raise ModulesError("This Collector holds no samples. Call add(cache) first.")
        samples = pd.concat(self._samples, ignore_index=True)
        n_tokens = np.concatenate(self._lengths)
        return ActivationMatrix(
            np.concatenate(self._values),
            self.units,
            beside(samples, {"n_tokens": n_tokens}, warn=True),
            self._totals.unit_means,
            self._model_name,
            reading=self._reading,
            content_means=self._totals.content_means,
        )

    def _append(self, batch: Reduced, mask: torch.Tensor, samples: pd.DataFrame) -> None:
        """Add a batch's reduced activations; a batch with a bad value adds nothing."""
        lengths, values = mask.sum(1).numpy(), batch.values.cpu().numpy()
        check_finite(values, self.units, samples.index.tolist())
        sums = batch.sums.cpu().double()
        both = np.stack([sums[:, row].sum(0).numpy() for row in (ALL, CONTENT)])
        self._totals += TokenSums(both, (int(lengths.sum()), int(batch.n_content.sum())))
        self._values.append(values)
        self._samples.append(samples)
        self._lengths.append(lengths)


def _cached(
    cache: Mapping[str, torch.Tensor] | Any, name: str
) -> Float[torch.Tensor, "batch pos *shape"]:
    """A cache's activation by the name in ``names_filter``; a bridge's cache also has aliases."""
    remedy = "Pass names_filter=collector.names_filter to run_with_cache."
    return cache_entry(cache, name, "The cache", remedy)
