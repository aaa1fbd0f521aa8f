"""One batch through a model on a GPU: queued kernels, whose results are waited for later."""

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Float

from tl_modules.activations.batch_values import read_hooks
from tl_modules.activations.device_reduction import CountedTokens, token_sizes
from tl_modules.activations.host_copies import HostCopy, host_memory
from tl_modules.activations.reading import Reading
from tl_modules.activations.unit_effects import unit_effects
from tl_modules.models.batches import Batch, uploaded
from tl_modules.models.content_tokens import SinkFinder, ordinary_tokens
from tl_modules.models.hooked_model import HookedModel
from tl_modules.models.runs import run_hooks_only
from tl_modules.units import Units

_ByHook = dict[str, torch.Tensor]


def reads_on_device(model: HookedModel) -> bool:
    """Whether a model's activations are reduced where they are, without waiting for the device.

    On a CPU nothing is gained, and the sums promise the same bits for every batch size.
    """
    return torch.device(getattr(model.cfg, "device", None) or "cpu").type != "cpu"


@dataclass(frozen=True, eq=False)
class BatchTotals:
    """What a batch gave besides its values, in the machine's memory."""

    sums: Float[np.ndarray, "2 _coordinates"]
    """Over the tokens that count, and over the content among them."""

    n_content: int
    """How many of the tokens are content."""

    is_finite: bool
    """Whether all values and sums are finite."""

    has_sinks: bool
    """Whether attention sinks were found among the tokens taken for content."""


class Queued:
    """A batch that the device may still be working on."""

    def __init__(
        self, values: Float[torch.Tensor, "batch units"], record: Float[torch.Tensor, " entries"]
    ) -> None:
        """Hold the device's results, and begin to copy the record.

        Args:
            values: One value per prompt and unit, float32.
            record: The sums, one after the other, then the fields of ``BatchTotals`` as numbers.
        """
        self._values: torch.Tensor | None = values
        self._record = HostCopy(
            record, host_memory(tuple(record.shape), record.dtype, record.device)
        )
        self._rows: HostCopy | None = None

    def copy_to(self, rows: Float[torch.Tensor, "batch units"]) -> None:
        """Begin to copy the values to rows of ``host_memory``."""
        assert self._values is not None
        self._rows, self._values = HostCopy(self._values, rows), None

    def totals(self) -> BatchTotals:
        """Wait until the batch has run and its values are in the rows given to ``copy_to``."""
        assert self._rows is not None
        self._rows.wait()
        record = self._record.wait().numpy().astype(np.float64)
        check, n_sinks, n_content = record[-3:].tolist()
        return BatchTotals(
            record[:-3].reshape(2, -1), int(n_content), math.isfinite(check), bool(n_sinks)
        )


def queued(
    model: HookedModel, batch: Batch, units: Units, reading: Reading, *, sinks_first: bool
) -> Queued:
    """Run a batch without waiting for the device.

    Args:
        model: The model.
        batch: The prompts.
        units: The units to read.
        reading: How values come about.
        sinks_first: Find attention sinks in a run of their own before, half of the layers. Without
            it they are found in the same run, too late for the sums of the first layers:
            ``BatchTotals.has_sinks`` then asks for another run.
    """
    ordinary = ordinary_tokens(model, batch.tokens, batch.mask)
    all_count = bool(batch.counted.all())
    # Two uploads a batch, and one of the places where losses begin.
    masks = torch.stack([batch.mask, batch.counted, ordinary])
    device = getattr(model.cfg, "device", None)
    mask, counted, ordinary = uploaded(masks, device).unbind()
    starts = None if batch.starts is None else uploaded(batch.starts, device)
    tokens = uploaded(batch.tokens, device)
    batch = replace(batch, tokens=tokens, mask=mask, counted=counted, starts=starts)
    finder = SinkFinder(model)
    known = torch.zeros_like(mask)
    if (sinks_first or reading.needs_gradients) and finder.readers:
        run_hooks_only(model, batch.tokens, mask, finder.readers)
        known, finder = finder.sinks(ordinary), None
    places = CountedTokens(counted, counted & ordinary & ~known, all_count=all_count)
    read = _effects if reading.needs_gradients else _activations
    sizes, sums = read(model, batch, units, reading, places, finder)
    values = places.averaged(_joined(sizes, units), reading.aggregate).float()
    late = torch.zeros_like(mask) if finder is None else finder.sinks(ordinary) & counted
    return Queued(values, _record(values, _joined(sums, units), late, places.content))


def _activations(
    model: HookedModel,
    batch: Batch,
    units: Units,
    reading: Reading,
    tokens: CountedTokens,
    finder: SinkFinder | None,
) -> tuple[_ByHook, _ByHook]:
    """Each hook point's ``token_sizes`` and signed sums, of activations."""
    sizes: _ByHook = {}
    sums: _ByHook = {}

    def take(name: str, activation: torch.Tensor, span: int) -> None:
        masked = tokens.masked(activation)
        sizes[name] = token_sizes(masked, span, reading.aggregate)
        sums[name] = tokens.sums(masked)

    read_hooks(model, batch, units, take, finder)
    return sizes, sums


def _effects(
    model: HookedModel,
    batch: Batch,
    units: Units,
    reading: Reading,
    tokens: CountedTokens,
    finder: SinkFinder | None,
) -> tuple[_ByHook, _ByHook]:
    """Each hook point's ``token_sizes`` of effects, and signed sums of activations."""
    del finder  # a backward pass costs more than the sinks' own run
    activations, effects = unit_effects(model, batch, units, reading)
    names = units.hook_names
    sizes = {
        name: token_sizes(tokens.masked(effects[name]), 1, reading.aggregate) for name in names
    }
    # The sums are mean ablation's values, which are activations whatever the matrix holds.
    return sizes, {name: tokens.sums(tokens.masked(activations[name])) for name in names}


def _joined(by_hook: _ByHook, units: Units) -> torch.Tensor:
    """All hook points' tensors side by side, on one device: layers may lie on several."""
    parts = [by_hook[name] for name in units.hook_names]
    return torch.cat([uploaded(part, parts[0].device) for part in parts], dim=1)


def _record(
    values: Float[torch.Tensor, "batch units"],
    sums: Float[torch.Tensor, "2 coordinates"],
    sinks: Bool[torch.Tensor, "batch pos"],
    content: Bool[torch.Tensor, "batch pos"],
) -> Float[torch.Tensor, " entries"]:
    """All numbers of ``BatchTotals`` as one tensor, so that one copy brings them all."""
    # A value or sum that is NaN or infinite leaves no finite total.
    check = values.amax() + sums.sum()
    numbers = (check, sinks.any(), content.sum())
    return torch.cat(
        [sums.flatten(), torch.stack([uploaded(of, sums.device).to(sums) for of in numbers])]
    )
