"""Batches that are halved where memory runs out."""

import gc
from collections.abc import Iterator

import torch

from tl_modules.activations.aggregate import Reduced
from tl_modules.activations.batch_values import batch_values
from tl_modules.activations.reading import Reading
from tl_modules.errors import ModulesError
from tl_modules.models.batches import Batch
from tl_modules.models.hooked_model import HookedModel
from tl_modules.runtime.call_warnings import warn_user
from tl_modules.runtime.memory import is_out_of_memory
from tl_modules.units import Units


class Room:
    """Runs batches through a model, and remembers what was too much for its memory."""

    def __init__(self, model: HookedModel, units: Units, reading: Reading) -> None:
        """Prepare.

        Args:
            model: The model.
            units: What to read.
            reading: How.
        """
        self.model = model
        self.units = units
        self.reading = reading
        self._too_much: int | None = None

    def values(self, batch: Batch) -> Iterator[tuple[Batch, Reduced]]:
        """A batch's values, whole or in parts, in the batch's order.

        Raises:
            ModulesError: If a single prompt is too much.
        """
        waiting = [batch]
        while waiting:
            part = waiting.pop()
            n_prompts, n_tokens = part.tokens.shape
            found = self._tried(part) if self._may_fit(part) else None
            if found is not None:
                yield part, found
                continue
            if n_prompts == 1:
                raise ModulesError(
                    f"One prompt of {n_tokens:,} tokens is too much for the memory of "
                    f"{getattr(self.model.cfg, 'device', 'the device')}. Pass a smaller "
                    "max_tokens, or load the model in a narrower dtype or over several devices."
                )
            middle = (n_prompts + 1) // 2
            waiting += [_rows(part, middle, n_prompts), _rows(part, 0, middle)]

    def _may_fit(self, part: Batch) -> bool:
        return self._too_much is None or part.tokens.numel() < self._too_much or len(part.rows) == 1

    def _tried(self, part: Batch) -> Reduced | None:
        """A part's values; None if memory ran out."""
        try:
            return batch_values(self.model, part, self.units, self.reading)
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
        gc.collect()  # out here the error is gone, and with it what the run held
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        self._too_much = part.tokens.numel()
        if len(part.rows) > 1:
            warn_user(
                f"Memory ran out at a batch of {len(part.rows)} prompts x {part.tokens.shape[1]} "
                "tokens; going on with halves of it. A smaller batch_size saves the tries.",
            )
        return None


def _rows(batch: Batch, start: int, stop: int) -> Batch:
    """Some of a batch's prompts."""
    chosen = slice(start, stop)
    parts = (part[chosen] for part in (batch.tokens, batch.mask, batch.counted))
    return Batch(batch.rows[chosen], *parts)
