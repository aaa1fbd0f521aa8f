"""Forward hooks that change some units at some positions, and nothing else."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import copy
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int, Shaped

from tl_modules.errors import ModulesError
from tl_modules.interventions.positions import Positions, Where
from tl_modules.interventions.replacements import (
    HasUnitMeans,
    Method,
    Replace,
    Sources,
    replacements,
)
from tl_modules.interventions.resident import Resident
from tl_modules.models.hooked_model import FwdHooks, HookedModel, flat
from tl_modules.models.prompt_starts import StartFinder
from tl_modules.models.token_arrays import TokenArray
from tl_modules.units import Units


class Edit:
    """A forward hook that changes some coordinates of one hook point's activation."""

    def __init__(
        self,
        name: str,
        width: int,
        index: Int[np.ndarray, " chosen"],
        replace: Replace,
        where: Where,
    ) -> None:
        """Keep what to change.

        Args:
            name: The hook point, for messages: the model may call it by an alias.
            width: How many coordinates the hook point has.
            index: The coordinates to change.
            replace: Makes their new values, which broadcast to the old ones' shape.
            where: The positions to change them at.
        """
        self.name = name
        self.width = width
        self._index = Resident(torch.from_numpy(np.array(index, dtype=np.int64)))
        self._replace = replace
        self.where = where

    def at(self, where: Where) -> "Edit":
        """The same edit at other positions; the two share their indices and values."""
        moved = copy(self)
        moved.where = where
        return moved

    def __call__(
        self, activation: Float[torch.Tensor, "*shape"], hook: Any = None
    ) -> Float[torch.Tensor, "*shape"]:
        """The activation with the units changed; the tensor given is not."""
        del hook
        return self.apply_(activation.clone(memory_format=torch.contiguous_format))

    def apply_(self, activation: Float[torch.Tensor, "*shape"]) -> Float[torch.Tensor, "*shape"]:
        """Change the units in place; the activation is contiguous.

        Raises:
            ModulesError: If the activation has another width, or positions do not fit it.
        """
        values = values_of(activation, self.name, self.width)
        touched = self.where.touched(values.shape[:-1])
        if touched is not None and not touched.any():
            return activation
        index = self._index.on(values.device)
        old = values[..., index]
        new = self._replace(old, self.where).to(values)
        if touched is not None:
            new = torch.where(touched.to(values.device)[..., None], new, old)
        values[..., index] = new
        return activation


def values_of(
    activation: Float[torch.Tensor, "..."], name: str, width: int
) -> Float[torch.Tensor, "..."]:
    """The coordinates of a hook point's activation on one last axis, as a view.

    Args:
        activation: The activation.
        name: The hook point.
        width: How many coordinates it has.

    Raises:
        ModulesError: If the activation has another width.
    """
    values = flat(activation, width)
    if values.shape[-1] != width:
        raise ModulesError(
            f"The module's units at {name!r} are among {width}; the activation there has shape "
            f"{tuple(activation.shape)}. Use the model that the module comes from."
        )
    return values


@contextmanager
def hooked(model: HookedModel, fwd_hooks: FwdHooks) -> Iterator[None]:
    """Hook a model inside the ``with``, and tell edits where in its prompt each run begins.

    Args:
        model: The model.
        fwd_hooks: Hook point names with their functions. Only edits are told where runs begin.
    """
    start_finders = finders(fwd_hooks)
    try:
        for finder in start_finders:
            finder.follow(model)
        with model.hooks(fwd_hooks=fwd_hooks):
            yield
    finally:
        for finder in start_finders:
            finder.remove()


def finders(fwd_hooks: FwdHooks) -> list[StartFinder]:
    """What tells the edits among some hooks where a run begins, each once."""
    edits = [fn for _, fn in fwd_hooks if isinstance(fn, Edit)]
    return list({id(edit.where.finder): edit.where.finder for edit in edits}.values())


def unit_hooks(  # noqa: PLR0913 - the options of one intervention, all by keyword
    units: Units,
    method: Method = "mean",
    reference: HasUnitMeans | None = None,
    *,
    source: Any = None,
    factor: float | None = None,
    positions: Positions = None,
    attention_mask: TokenArray | None = None,
    seed: int = 0,
    rows: Shaped[np.ndarray, "..."] | Sequence[int] | None = None,
) -> FwdHooks:
    """Hooks that change units at every layer they lie in.

    Args:
        units: What to change.
        method: One of ``replacements.METHODS``.
        reference: Where ``mean``, ``position_mean`` and ``resample`` take their values from.
        source: For ``patch``: the other run's activation cache.
        factor: For ``scale``.
        positions: Where to change them; see ``Positions``.
        attention_mask: 1 or True where a token is real, ``[batch, pos]``; padding is not touched.
        seed: Seeds ``resample``.
        rows: Each prompt's number, by which ``resample`` draws; from 0 by default.

    Returns:
        ``(hook_name, fn)`` pairs for ``run_with_hooks`` or ``hooks``, one per hook point.

    Raises:
        ModulesError: If the method is unknown or lacks what it needs, or positions or a mask are
            malformed.
    """
    edits = UnitEdits(
        units,
        method,
        reference,
        source=source,
        factor=factor,
        seed=seed,
        of_content=positions is not None,
    )
    return edits.hooks(positions=positions, attention_mask=attention_mask, rows=rows)


class UnitEdits:
    """Edits of units, built once, that make hooks for any batch."""

    def __init__(
        self,
        units: Units,
        method: Method,
        reference: HasUnitMeans | None,
        *,
        source: Any = None,
        factor: float | None = None,
        seed: int = 0,
        of_content: bool = False,
    ) -> None:
        """Build the edits; the arguments are ``unit_hooks``', and ``Sources.of_content``.

        Raises:
            ModulesError: If the method is unknown or lacks what it needs.
        """
        coordinates = units.coordinates()
        sources = Sources(reference, source, factor, seed, of_content)
        make = replacements(coordinates, method, sources)
        self._edits = []
        for hook, members in coordinates.by_hook():
            name, width = coordinates.hook_names[hook], coordinates.widths[hook]
            replace = make(name, members)
            self._edits.append(Edit(name, width, coordinates.index[members], replace, Where()))

    def hooks(
        self,
        *,
        positions: Positions = None,
        attention_mask: TokenArray | None = None,
        rows: Shaped[np.ndarray, "..."] | Sequence[int] | None = None,
    ) -> FwdHooks:
        """Hooks at some positions of a batch; the arguments are ``unit_hooks``'.

        Raises:
            ModulesError: If positions or a mask are malformed.
        """
        where = Where.given(positions, attention_mask, rows)
        return [(edit.name, edit.at(where)) for edit in self._edits]
