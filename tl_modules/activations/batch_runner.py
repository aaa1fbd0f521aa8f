"""Running batches through a model. A batch that does not fit into memory is halved."""

from collections.abc import Callable, Iterator
from typing import TypeVar

from tl_modules.activations.aggregate import Reduced
from tl_modules.activations.batch_values import batch_values
from tl_modules.activations.device_values import BatchTotals, Queued, queued, reads_on_device
from tl_modules.activations.reading import Reading
from tl_modules.errors import ModulesError
from tl_modules.models.batches import Batch
from tl_modules.models.hooked_model import HookedModel
from tl_modules.runtime.call_warnings import warn_user
from tl_modules.runtime.memory import unless_out_of_memory
from tl_modules.units import Units

_Run = TypeVar("_Run")


class BatchRunner:
    """Runs batches through a model, and remembers which size did not fit into memory."""

    def __init__(
        self,
        model: HookedModel,
        units: Units,
        reading: Reading,
        chunk_tokens: int | None = None,
    ) -> None:
        """Prepare to run batches.

        Args:
            model: The model.
            units: The units to read.
            reading: How values come about.
            chunk_tokens: How many of a prompt's tokens run at once; None for all.
        """
        self.model = model
        self.units = units
        self.reading = reading
        self.chunk_tokens = chunk_tokens
        self.on_device = reads_on_device(model)
        """Whether values are reduced on a GPU, and waited for later."""
        self._too_many_tokens: int | None = None
        self._sinks_first = False

    @property
    def n_ahead(self) -> int:
        """How many batches to queue before the first one's results are waited for."""
        return int(self.on_device)

    def values(self, batch: Batch) -> Iterator[tuple[Batch, Reduced | Queued]]:
        """Run a batch, whole or in parts, and yield each part with its values, in order.

        Returns:
            On a GPU, parts that may still be running: ask ``again`` once they have run.

        Raises:
            ModulesError: If a single prompt does not fit into memory.
        """
        is_long = self.at_once(batch) < batch.shape[1]
        # Stretches take so long that nothing is gained by queueing them.
        return self._halved(batch, self._queued if self.on_device and not is_long else self._exact)

    def at_once(self, batch: Batch) -> int:
        """How many positions of a batch run at once."""
        n_positions = batch.shape[1]
        return n_positions if self.chunk_tokens is None else min(n_positions, self.chunk_tokens)

    def again(
        self, part: Batch, totals: BatchTotals
    ) -> Iterator[tuple[Batch, Reduced | Queued]] | None:
        """Run a part again if its values on a GPU do not hold; None if they do.

        Args:
            part: What ``values`` yielded.
            totals: What it gave.
        """
        if not totals.is_finite:
            # It overflowed float32, or an activation is not finite, which a later check refuses.
            return self._halved(part, self._exact)
        if totals.has_sinks:
            self._sinks_first = True  # there will be others: most models have none
            return self._halved(part, self._queued)
        return None

    def _exact(self, part: Batch) -> Reduced:
        return batch_values(self.model, part, self.units, self.reading, self.chunk_tokens)

    def _queued(self, part: Batch) -> Queued:
        return queued(self.model, part, self.units, self.reading, sinks_first=self._sinks_first)

    def _halved(self, batch: Batch, run: Callable[[Batch], _Run]) -> Iterator[tuple[Batch, _Run]]:
        """Run a batch, or its halves if memory runs out."""
        waiting = [batch]
        while waiting:
            part = waiting.pop()
            n_prompts, n_tokens = part.tokens.shape
            values = self._try(part, run) if self._may_fit(part) else None
            if values is not None:
                yield part, values
                continue
            if n_prompts == 1:
                raise ModulesError(
                    f"One prompt of {n_tokens:,} tokens does not fit into the memory of "
                    f"{getattr(self.model.cfg, 'device', 'the device')}. Pass a smaller "
                    f"max_tokens{'' if self.reading.needs_gradients else ' or chunk_tokens'}, or "
                    "load the model in a narrower dtype or over several devices."
                )
            middle = (n_prompts + 1) // 2
            # The last one is taken next, so the first half goes last.
            waiting += [
                part.part(slice(middle, None)),
                part.part(slice(middle)),
            ]

    def _may_fit(self, part: Batch) -> bool:
        """Whether to try: a size that failed before is halved at once, unless it is one prompt."""
        limit = self._too_many_tokens
        return limit is None or part.tokens.numel() < limit or len(part.rows) == 1

    def _try(self, part: Batch, run: Callable[[Batch], _Run]) -> _Run | None:
        """The values of some prompts; None if memory ran out."""
        found = unless_out_of_memory(lambda: run(part))
        if found is not None:
            return found
        self._too_many_tokens = part.tokens.numel()
        if len(part.rows) > 1:
            warn_user(
                f"Memory ran out at a batch of {len(part.rows)} prompts x {part.tokens.shape[1]} "
                "tokens; collect() now runs it in halves. A smaller batch_size avoids the failed "
                "attempts.",
            )
        return None
