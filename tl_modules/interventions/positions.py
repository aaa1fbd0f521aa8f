"""Which positions of a run an intervention touches."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, SupportsIndex

import numpy as np
import torch
from jaxtyping import Bool, Int, Shaped

from tl_modules.errors import ModulesError, check_choice
from tl_modules.models.prompt_starts import StartFinder
from tl_modules.models.token_arrays import TokenArray, as_mask, as_tensor

Positions = SupportsIndex | slice | str | TokenArray | None
"""Which positions: None for all, ``"content"`` for all but the first token, ``"last"`` for
the last token of each row of a forward pass, one or several numbers, a slice, or a mask
``[batch, pos]``. Numbers, slices and masks count places in the whole prompt, from its first token,
padding counted; a prompt that is continued from a key-value cache is one prompt."""

_Chosen = slice | str | tuple[int, ...] | Bool[torch.Tensor, "_batch _pos"] | None
_REMEDY = (
    "Use None, 'content', 'last', a number, several, a slice, or a mask [batch, pos] of booleans."
)


@dataclass(frozen=True, eq=False)
class Where:
    """The positions that an intervention touches."""

    positions: _Chosen = None
    attention_mask: Bool[torch.Tensor, "_batch _pos"] | None = None
    rows: Int[np.ndarray, " _batch"] | None = None
    """Each prompt's number; from 0 by default."""

    finder: StartFinder = field(default_factory=StartFinder)
    """Says where in its prompt a run begins."""

    @classmethod
    def given(
        cls,
        positions: Positions,
        attention_mask: TokenArray | None,
        rows: Shaped[np.ndarray, "..."] | Sequence[int] | None,
    ) -> "Where":
        """Parse the arguments of ``fwd_hooks``.

        Raises:
            ModulesError: If an argument is malformed.
        """
        numbers = None if rows is None else np.asarray(rows)
        if numbers is not None and (numbers.ndim != 1 or numbers.dtype.kind not in "iu"):
            raise ModulesError(
                f"rows should be one whole number per prompt; got {type(rows).__name__} of shape "
                f"{numbers.shape}. Leave it out to count prompts from 0."
            )
        return cls(_as_positions(positions), as_mask("attention_mask", attention_mask), numbers)

    def touched(self, shape: torch.Size) -> Bool[torch.Tensor, "batch pos"] | None:
        """Which positions of a run to touch, on the CPU; None where it is every one.

        Raises:
            ModulesError: If a position or a mask does not fit the run, or its place in the prompt
                is needed and not known.
        """
        if self.positions is None and self.attention_mask is None:
            return None
        if len(shape) < 2:
            raise ModulesError(
                f"Positions need an activation of shape batch x pos x units; got {tuple(shape)}."
            )
        real = torch.ones(*shape[:2], dtype=torch.bool)
        if self.attention_mask is not None:
            real = self._part("attention_mask", self.attention_mask, shape)
        if self.positions is None:
            return real
        if self.positions == "content":
            return real & (self.position_numbers(shape) > 0)
        if isinstance(self.positions, str):
            last = real.shape[1] - 1 - real.flip(1).int().argmax(1)
            return real & (torch.arange(real.shape[1]) == last[:, None])
        if isinstance(self.positions, torch.Tensor):
            return real & self._part("positions", self.positions, shape)
        return real & self._numbered(shape[1])

    def position_numbers(self, shape: torch.Size) -> Int[torch.Tensor, "..."]:
        """Each token's number in its prompt, from 0, padding left out: ``[batch, pos]``."""
        begin = self._begin()
        if self.attention_mask is None:
            return torch.arange(begin, begin + shape[1]).expand(shape[0], shape[1])
        self._part("attention_mask", self.attention_mask, shape)
        numbers = (self.attention_mask.cumsum(1) - 1).clamp(min=0)
        return numbers[:, begin : begin + shape[1]]

    def common_numbers(self, length: int, device: torch.device) -> Int[torch.Tensor, " pos"] | None:
        """Each place's number in its prompt, where it is the same in every row.

        Args:
            length: The number of places of the run.
            device: Where the numbers are made.

        Returns:
            The numbers, which hold for real tokens; None if a row may have padding on the left.
        """
        mask = self.attention_mask
        if mask is not None and not (mask[:, 0].all() and (mask[:, 1:] <= mask[:, :-1]).all()):
            return None
        begin = self._begin()
        return torch.arange(begin, begin + length, device=device)

    def part_of(
        self, whole: Shaped[torch.Tensor, "_batch _pos *axes"], length: int
    ) -> Shaped[torch.Tensor, "_batch _pos *axes"]:
        """What a run of so many tokens has of a tensor of the whole prompt."""
        start = self.finder.start()
        return whole[:, self._begin() :][:, :length] if start.is_open else whole

    def _begin(self) -> int:
        place = self.finder.start().place
        assert place is not None  # start() refuses it
        return place

    def _part(
        self, name: str, mask: Bool[torch.Tensor, "_rows _pos"], shape: torch.Size
    ) -> Bool[torch.Tensor, "batch pos"]:
        """The run's part of a mask of the whole prompt."""
        found = self.part_of(mask, shape[1])
        if found.shape != shape[:2]:
            end = self._begin() + shape[1]
            raise ModulesError(
                f"{name} should have the shape of the prompt's tokens so far, {(shape[0], end)}; "
                f"it has {tuple(mask.shape)}. Without a key-value cache every run is a whole "
                "prompt; in a run with one, as generate() makes, a mask reaches from the prompt's "
                "first token to the last that is generated, or further."
            )
        return found

    def _numbered(self, length: int) -> Bool[torch.Tensor, " pos"]:
        """The chosen places among a run's, for places given as numbers or a slice."""
        assert isinstance(self.positions, slice | tuple)
        start, begin = self.finder.start(), self._begin()
        end = begin + length
        if start.is_open and _counts_from_the_end(self.positions):
            raise ModulesError(
                f"positions should count from the prompt's first token in a run with a key-value "
                f"cache, as generate() makes, where the prompt's end is not known; got "
                f"{self.positions}. Use 'last' for each run's last token, or numbers from 0."
            )
        if isinstance(self.positions, slice):
            places = range(end)[self.positions]
        else:
            places = self.positions
            outside = [place for place in places if not -length <= place < length]
            if outside and not start.is_open:
                raise ModulesError(
                    f"positions should lie in -{length}..{length - 1}, as the run has {length} "
                    f"positions; got {outside[0]}. Use None or 'last' for runs that are shorter; "
                    "places that generate() writes need its key-value cache."
                )
        chosen = torch.zeros(end, dtype=torch.bool)
        chosen[[place for place in places if place < end]] = True
        return chosen[begin:]


def _counts_from_the_end(positions: slice | tuple[int, ...]) -> bool:
    if isinstance(positions, tuple):
        return any(place < 0 for place in positions)
    return any(bound is not None and bound < 0 for bound in _bounds(positions))


def _bounds(positions: slice) -> tuple[Any, Any, Any]:
    return positions.start, positions.stop, positions.step


def _as_positions(positions: Positions) -> _Chosen:
    """Convert positions to one of the forms that ``Where`` holds.

    Raises:
        ModulesError: If they are malformed.
    """
    if positions is None:
        return None
    if isinstance(positions, str):
        check_choice("positions", positions, ("content", "last"))
        return positions
    if isinstance(positions, slice):
        try:
            range(0)[positions]
        except (TypeError, ValueError) as error:
            raise ModulesError(
                f"positions as a slice should have whole numbers as its bounds and a step other "
                f"than 0; got {positions}. {_REMEDY}"
            ) from error
        return positions
    found = as_tensor("positions", positions, _REMEDY)
    if found.ndim == 2:
        return as_mask("positions", found)
    is_whole = found.dtype != torch.bool and not found.is_floating_point()
    if found.ndim > 2 or not (is_whole or not found.numel()):
        raise ModulesError(
            "positions should be whole numbers, or a mask of shape batch x pos; got "
            f"{found.dtype} of shape {tuple(found.shape)}. {_REMEDY}"
        )
    return tuple(found.flatten().tolist())
