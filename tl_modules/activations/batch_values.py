"""One batch through a model: each unit's value on each prompt."""

from collections.abc import Callable, Mapping
from dataclasses import replace

import torch

from tl_modules.activations.aggregate import (
    LeftOut,
    Reduced,
    left_out,
    reduced,
    signed_sums,
    without_overflow,
)
from tl_modules.activations.reading import Reading
from tl_modules.activations.stretches import Reduction, left_at
from tl_modules.activations.unit_effects import unit_effects
from tl_modules.models.batches import Batch
from tl_modules.models.content_tokens import SinkFinder, content_tokens, ordinary_tokens
from tl_modules.models.hooked_model import HookedModel, checked_flat
from tl_modules.models.past_tokens import PastTokens, stretches
from tl_modules.models.runs import run_hooks_only
from tl_modules.units import Units


def batch_values(
    model: HookedModel,
    batch: Batch,
    units: Units,
    reading: Reading,
    chunk_tokens: int | None = None,
) -> Reduced:
    """Run a batch, and reduce each prompt's tokens to one value per unit.

    Args:
        model: The model.
        batch: The prompts.
        units: The units to read.
        reading: How values come about.
        chunk_tokens: How many of a prompt's tokens run at once; None for all, as gradients need.

    Returns:
        One value per prompt and unit, and the signed sums of all coordinates. They stay on the
        model's device, so that a GPU is not waited for until the whole batch has run.
    """
    if reading.needs_gradients:
        return without_overflow(
            lambda wide: joined(_effects(model, batch, units, reading, wide), units)
        )
    return without_overflow(
        lambda wide: _activations(model, batch, units, reading, chunk_tokens, wide)
    )


def _on_device(model: HookedModel, batch: Batch) -> Batch:
    """The batch with its mask on the model's device: moved once rather than at each hook point."""
    return replace(batch, counted=batch.counted.to(getattr(model.cfg, "device", None)))


def joined(by_hook: Mapping[str, Reduced], units: Units) -> Reduced:
    """The values of all hook points side by side, in the units' order.

    Args:
        by_hook: Values by hook name.
        units: The units.
    """
    parts = [by_hook[name] for name in units.hook_names]
    device = parts[0].values.device  # a model's layers may lie on several devices
    return Reduced(
        torch.cat([part.values.to(device) for part in parts], dim=1),
        torch.cat([part.sums.to(device) for part in parts], dim=2),
        parts[0].n_content,
    )


def _activations(
    model: HookedModel,
    batch: Batch,
    units: Units,
    reading: Reading,
    chunk_tokens: int | None,
    wide: bool,
) -> Reduced:
    """Each sample's aggregated |activation|; the run ends at the last hook point."""

    def read(left: LeftOut, finder: SinkFinder | None) -> Reduced:
        reduction = Reduction(reading.aggregate)
        for positions, past in stretches(model, batch.shape, chunk_tokens):
            part, left_here = batch.at(positions), left_at(left, positions)
            found = _read(model, part, units, reading, wide, left_here, finder, past)
            if past is None:
                return found
            reduction.add(found, part.counted.sum(1))
        return reduction.result()

    content = ordinary_tokens(model, batch.tokens, batch.mask)
    finder = SinkFinder(model)
    values = read(left_out(batch.counted, content), finder)
    sinks = finder.sinks(content)
    if bool((sinks & batch.counted).any()):
        # The middle layer comes after layers that were summed already, so the batch runs again.
        # That is rare: in most models the first token is the only sink.
        values = read(left_out(batch.counted, content & ~sinks), None)
    return values


def _read(
    model: HookedModel,
    batch: Batch,
    units: Units,
    reading: Reading,
    wide: bool,
    left: LeftOut,
    finder: SinkFinder | None,
    past: PastTokens | None,
) -> Reduced:
    """Run a batch once, up to the last hook point, and reduce each hook point's activations."""
    by_hook: dict[str, Reduced] = {}
    counted = _on_device(model, batch).counted

    def take(name: str, activation: torch.Tensor, span: int) -> None:
        by_hook[name] = reduced(activation, span, counted, left, reading.aggregate, wide=wide)

    read_hooks(model, batch, units, take, finder, past)
    return joined(by_hook, units)


def read_hooks(
    model: HookedModel,
    batch: Batch,
    units: Units,
    take: Callable[[str, torch.Tensor, int], object],
    finder: SinkFinder | None = None,
    past: PastTokens | None = None,
) -> None:
    """Run a batch up to the last hook point of some units.

    Args:
        model: The model.
        batch: The prompts.
        units: The units.
        take: Called with each hook point's name, its activation ``[batch, pos, coordinates]`` and
            the number of coordinates per unit. It runs inside the hook, so that one activation is
            in memory at a time.
        finder: Reads the same run.
        past: The tokens before these, if a long prompt runs in stretches.
    """

    def reader(name: str, width: int, span: int) -> Callable[[torch.Tensor], None]:
        def read(activation: torch.Tensor) -> None:
            if finder is not None and name in finder.readers:
                finder.readers[name](activation)
            take(name, checked_flat(activation.detach(), width * span, name), span)

        return read

    hooks = zip(units.hook_names, units.widths, units.spans, strict=True)
    readers = {} if finder is None else dict(finder.readers)
    readers |= {name: reader(name, width, span) for name, width, span in hooks}
    run_hooks_only(model, batch.tokens, batch.mask, readers, past)


def _effects(
    model: HookedModel, batch: Batch, units: Units, reading: Reading, wide: bool
) -> dict[str, Reduced]:
    """Each sample's aggregated effects of units on the loss or the logits, by hook."""
    by_hook: dict[str, Reduced] = {}
    left = left_out(batch.counted, content_tokens(model, batch.tokens, batch.mask))
    batch = _on_device(model, batch)
    activations, effects = unit_effects(model, batch, units, reading)
    for name in units.hook_names:
        found = reduced(effects[name], 1, batch.counted, left, reading.aggregate, wide=wide)
        # The sums are mean ablation's values, which are activations whatever the matrix holds.
        sums = signed_sums(activations[name], batch.counted, left, wide=wide)
        by_hook[name] = found._replace(sums=sums)
    return by_hook
