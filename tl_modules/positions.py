"""Which positions of a run an intervention touches."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Int, Shaped

from tl_modules.errors import ModulesError, check_choice

Positions = int | slice | Sequence[int] | str | Shaped[torch.Tensor, "..."] | None
"""Which positions: None for all, ``"last"`` for each row's last token, one or several numbers, a
slice, or a mask ``[batch, pos]``."""


@dataclass(frozen=True, eq=False)
class Where:
    """The positions that an intervention touches."""

    positions: Positions = None
    attention_mask: Bool[torch.Tensor, "_batch _pos"] | None = None
    rows: Int[np.ndarray, " _batch"] | None = None
    """Each prompt's number; from 0 by default."""

    @classmethod
    def given(
        cls,
        positions: Positions,
        attention_mask: Shaped[torch.Tensor, "_batch _pos"] | None,
        rows: Int[np.ndarray, " _batch"] | None,
    ) -> "Where":
        """As ``fwd_hooks`` is told it: the mask of any dtype."""
        return cls(positions, None if attention_mask is None else attention_mask.bool(), rows)

    @property
    def is_by_place(self) -> bool:
        """Whether a token's place in its prompt decides."""
        return not (self.positions is None or isinstance(self.positions, str))

    def touched(self, shape: torch.Size, device: torch.device) -> Bool[torch.Tensor, "..."] | None:
        """A mask ``[batch, pos]``, or None where every position is touched.

        Raises:
            ModulesError: If a position or a mask does not fit the activation.
        """
        if self.positions is None and self.attention_mask is None:
            return None
        if len(shape) < 2:
            raise ModulesError(
                f"Positions need an activation of shape batch x pos x units; got {tuple(shape)}."
            )
        rows, length = shape[0], shape[1]
        real = torch.ones(rows, length, dtype=torch.bool)
        if self.attention_mask is not None:
            real = _fitting("attention_mask", self.attention_mask, rows, length)
        return (real & self._chosen(real)).to(device)

    def position_numbers(self, shape: torch.Size) -> Int[torch.Tensor, "..."]:
        """Each token's number in its prompt, from 0, padding left out: ``[batch, pos]``."""
        if self.attention_mask is None:
            return torch.arange(shape[1]).expand(shape[0], shape[1])
        real = _fitting("attention_mask", self.attention_mask, shape[0], shape[1])
        return (real.cumsum(1) - 1).clamp(min=0)

    def _chosen(self, real: Bool[torch.Tensor, "batch pos"]) -> Bool[torch.Tensor, "..."]:
        rows, length = real.shape
        if self.positions is None:
            return torch.ones_like(real)
        if isinstance(self.positions, torch.Tensor):
            return _fitting("positions", self.positions, rows, length)
        chosen = torch.zeros_like(real)
        if isinstance(self.positions, str):
            check_choice("positions", self.positions, ("last",))
            last = length - 1 - real.flip(1).int().argmax(1)
            chosen[torch.arange(rows), last] = True
        elif isinstance(self.positions, slice):
            chosen[:, self.positions] = True
        else:
            several = self.positions
            numbers = [several] if isinstance(several, int | np.integer) else list(several)
            outside = [number for number in numbers if not -length <= number < length]
            if outside:
                raise ModulesError(
                    f"positions should lie in -{length}..{length - 1}, as the run has {length} "
                    f"positions; got {outside[0]}. With generate(), which runs one token at a "
                    "time after the first pass, use None or 'last'."
                )
            chosen[:, numbers] = True
        return chosen


def _fitting(
    name: str, mask: Shaped[torch.Tensor, "..."], rows: int, length: int
) -> Bool[torch.Tensor, "batch pos"]:
    """A mask as booleans on the CPU, if it has the run's shape."""
    if mask.shape != (rows, length):
        raise ModulesError(
            f"{name} should have the shape of the run's tokens, {(rows, length)}; it has "
            f"{tuple(mask.shape)}. With generate(), which runs one token at a time after the "
            "first pass, use positions=None or 'last' and no mask."
        )
    return mask.bool().cpu()
