"""The new value of a unit's activation under each method of intervention."""

from collections.abc import Callable
from dataclasses import dataclass
from numbers import Real
from typing import Any, Literal, Protocol, get_args, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int

from tl_modules.errors import ModulesError, check_choice, shown
from tl_modules.interventions.positions import Where
from tl_modules.interventions.resident import Resident
from tl_modules.models.hooked_model import cache_entry, flat
from tl_modules.runtime.arguments import check_argument
from tl_modules.runtime.call_warnings import warn_once
from tl_modules.units import Units

Method = Literal["zero", "mean", "position_mean", "resample", "patch", "scale"]
"""``zero``: 0. ``mean``: the unit's mean over a reference's tokens. ``position_mean``: its mean
over the reference's tokens at the same position. ``resample``: its value at a random token of the
reference, the same token for all units, drawn for each prompt and place. ``patch``: its value at
the same place of another run. ``scale``: itself times a factor."""

METHODS: tuple[Method, ...] = get_args(Method)

_Old = Float[torch.Tensor, "*batch chosen"]
_At = Int[np.ndarray, " chosen"]

Replace = Callable[[_Old, Where], torch.Tensor]
"""``fn(old, where)``: new values of some units, which broadcast to the old ones' shape."""

Make = Callable[[str, _At], Replace]
"""``make(hook_name, at)``: the replacement of the units ``at`` one hook point."""


@runtime_checkable
class HasUnitMeans(Protocol):
    """A reference for mean ablation: an ActivationMatrix, a ModuleSet or a Reference."""

    @property
    def units(self) -> Units:
        """All units of the model's hook points."""
        ...

    @property
    def unit_means(self) -> Float[np.ndarray, " coordinates"] | None:
        """Each coordinate's mean (signed) over the reference's tokens; most units have one."""
        ...


@dataclass(frozen=True, eq=False)
class Sources:
    """Where the new values come from. Each method needs at most one of them."""

    reference: HasUnitMeans | None = None
    source: Any = None
    factor: float | None = None
    seed: int = 0
    of_content: bool = False
    """Whether means and resampled tokens leave out special tokens and attention sinks."""


def replacements(units: Units, method: str, sources: Sources) -> Make:
    """Prepare the replacement of some units.

    Args:
        units: The units, of one coordinate each.
        method: One of ``METHODS``.
        sources: Where the values come from.

    Returns:
        A function that makes the replacement at each hook point.

    Raises:
        ModulesError: If the method is unknown or lacks what it needs.
    """
    check_choice("method", method, METHODS)
    check_argument("reference", sources.reference, HasUnitMeans | None)
    return _MAKERS[method](units, sources)


def _constant(values: Float[np.ndarray, " units"]) -> Make:
    def make(name: str, at: _At) -> Replace:
        del name
        fixed = Resident(_tensor(values[at]))
        return lambda old, where: fixed.like(old)

    return make


def _zero(units: Units, sources: Sources) -> Make:
    del sources
    return _constant(np.zeros(len(units)))


def _mean(units: Units, sources: Sources) -> Make:
    return _constant(_means(units, sources))


def _position_mean(units: Units, sources: Sources) -> Make:
    overall = _means(units, sources)
    table = _of_tokens(units, sources.reference, "position_mean", "position_means")
    by_position = table[:, units.flat()]

    def make(name: str, at: _At) -> Replace:
        del name
        # Positions beyond the reference's take the mean over all.
        means = Resident(_tensor(np.concatenate([by_position[:, at], overall[None, at]])))
        last = len(by_position)

        def replace(old: torch.Tensor, where: Where) -> torch.Tensor:
            # One value per place, if every row has the same one, for many units and rows.
            numbers = where.common_numbers(old.shape[1], old.device)
            if numbers is None:
                numbers = where.position_numbers(old.shape[:-1]).to(old.device)
            return means.like(old)[numbers.clamp(max=last)]

        return replace

    return make


def _resample(units: Units, sources: Sources) -> Make:
    tokens = _of_tokens(units, sources.reference, "resample", "tokens")
    is_content = getattr(sources.reference, "is_content", None) if sources.of_content else None
    kept = np.arange(len(tokens)) if is_content is None else np.flatnonzero(is_content)
    if not len(kept):
        raise ModulesError(
            "method='resample' needs content tokens to draw from; the reference's tokens are all "
            "first or special tokens. Collect it with a larger n_tokens=."
        )
    columns = units.flat()

    def make(name: str, at: _At) -> Replace:
        del name

        def replace(old: torch.Tensor, where: Where) -> torch.Tensor:
            numbers = where.position_numbers(old.shape[:-1])
            rows = np.arange(len(old)) if where.rows is None else where.rows
            # By prompt and place alone, so that all hook points draw the same tokens, and batches,
            # padding and key-value caches do not matter.
            size = int(numbers.max()) + 1
            drawn = np.stack(
                [
                    np.random.default_rng([sources.seed, 0, int(row)]).integers(
                        len(kept), size=size
                    )
                    for row in rows
                ]
            )
            chosen = torch.from_numpy(drawn).gather(1, numbers.long()).numpy()
            # Looked up here, not once and kept: an experiment's controls would hold many copies.
            return _tensor(tokens[kept[chosen][..., None], columns[at]]).to(old)

        return replace

    return make


def _patch(units: Units, sources: Sources) -> Make:
    if sources.source is None:
        raise ModulesError(
            "method='patch' needs the other run's activations. Pass source=cache, from "
            "model.run_with_cache(other_tokens)."
        )

    def make(name: str, at: _At) -> Replace:
        remedy = "Cache it: names_filter may be a list of hook names."
        cached = cache_entry(sources.source, name, "source", remedy)
        width = units.widths[units.hook_names.index(name)]
        is_whole = np.array_equal(units.index[at], np.arange(width))
        index = Resident(torch.from_numpy(units.index[at]).long())

        def replace(old: torch.Tensor, where: Where) -> torch.Tensor:
            # Indexed here, not once and kept: many cells would hold many copies.
            values = where.part_of(flat(cached, width), old.shape[1])
            if values.shape != (*old.shape[:-1], width):
                raise ModulesError(
                    "source should be a run of the same batch and length, "
                    f"{tuple(old.shape[:-1])}; it has {tuple(values.shape[:-1])} at {name!r}. Pad "
                    "both prompts alike, and keep the batch axis. While generate() writes, choose "
                    "positions of the prompt."
                )
            return values if is_whole else values[..., index.on(values.device)]

        return replace

    return make


def _scale(units: Units, sources: Sources) -> Make:
    del units
    factor = sources.factor
    if not isinstance(factor, Real) or isinstance(factor, bool) or not np.isfinite(factor):
        raise ModulesError(
            f"method='scale' needs a finite factor; got {shown(factor)}. factor=0.5 halves the "
            "activations."
        )
    return lambda name, at: lambda old, where: old * factor


_MAKERS: dict[str, Callable[[Units, Sources], Make]] = {
    "zero": _zero,
    "mean": _mean,
    "position_mean": _position_mean,
    "resample": _resample,
    "patch": _patch,
    "scale": _scale,
}


def _tensor(values: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.array(values, dtype=np.float32))


def _means(units: Units, sources: Sources) -> Float[np.ndarray, " units"]:
    """The reference's means of these units."""
    reference = sources.reference
    if reference is None or reference.unit_means is None:
        raise ModulesError(
            "method='mean' needs the units' mean activations, and none are known: these modules "
            "come from a matrix without them. Pass reference=tlm.collect(model, prompts), or use "
            "method='zero'."
        )
    _check_units(units, reference)
    name, all_means = means_of(reference, of_content=sources.of_content)
    means = np.asarray(all_means, dtype=np.float64)[units.flat()]
    _check_finite(units, means, name)
    return means


def means_of(
    reference: HasUnitMeans, *, of_content: bool
) -> tuple[str, Float[np.ndarray, " coordinates"] | None]:
    """A reference's means, and their name: those over content, or those over all tokens.

    Args:
        reference: The reference. If it holds no means over content, a warning says so, and its
            means over all tokens are used.
        of_content: Whether the means over content are wanted.
    """
    if of_content:
        means = getattr(reference, "content_means", None)
        if means is not None:
            return "content_means", means
        warn_once(
            "content means",
            "The reference holds means over all tokens and none over content, so that units take "
            "values that attention sinks distort. Collect it anew with this version, or pass "
            "reference=tlm.collect_reference(model, prompts).",
        )
    return "unit_means", reference.unit_means


def _of_tokens(
    units: Units, reference: HasUnitMeans | None, method: str, name: str
) -> Float[np.ndarray, "rows coordinates"]:
    """One of a ``Reference``'s tables, of all units; these units' values are checked."""
    table = getattr(reference, name, None)
    if reference is None or table is None:
        raise ModulesError(
            f"method={method!r} needs a reference with {name}. Pass reference="
            "tlm.collect_reference(model, prompts)."
        )
    _check_units(units, reference)
    table = np.asarray(table)
    _check_finite(units, table[:, units.flat()], name)
    return table


def _check_finite(units: Units, values: Float[np.ndarray, "..."], name: str) -> None:
    bad = np.argwhere(~np.isfinite(values))
    if len(bad):
        unit = bad[0][-1]
        raise ModulesError(
            f"The reference's {name} should be finite; at {units.hook_names[units.hook[unit]]!r}, "
            f"index {units.index[unit]}, they are not. Collect it anew, in a wider dtype (float32)."
        )


def _check_units(units: Units, reference: HasUnitMeans) -> None:
    if not reference.units.coordinates().same_hooks(units):
        raise ModulesError(
            "reference should come from the same model as the modules: its hook points or widths "
            "differ. Collect it from the model that the modules were discovered on."
        )
