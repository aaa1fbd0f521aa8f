"""Edit coordinates of one hook point by an affine map of low rank."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Float, Int

from tl_modules.interventions.hooks import Edit
from tl_modules.interventions.positions import Where


@dataclass(frozen=True, eq=False)
class LinearEdit:
    """Replaces coordinates ``x`` of each token by ``x + (x - centre) @ read @ write``.

    If ``read @ write`` is minus the identity, the edit is mean ablation.
    """

    hook_name: str
    """The hook point."""

    width: int
    """The number of coordinates at the hook point."""

    index: Int[np.ndarray, " coordinates"]
    """The coordinates to edit."""

    centre: Float[np.ndarray, " coordinates"]
    """The point that the edit maps to itself."""

    read: Float[np.ndarray, "coordinates rank"]
    """The directions that are read."""

    write: Float[np.ndarray, "rank coordinates"]
    """The vector that one unit of each read direction adds."""

    spares_first: bool = False
    """Whether each prompt's first token is left unedited."""

    @cached_property
    def _tensors(self) -> list[torch.Tensor]:
        """The matrices as tensors, made once for all batches of an experiment."""
        with torch.inference_mode(False):  # kept for later runs, which may need gradients
            return [
                torch.from_numpy(np.array(part, dtype=np.float32))
                for part in (self.centre, self.read, self.write)
            ]

    def hook(self, where: Where) -> tuple[str, Edit]:
        """Return the name of the hook point and the hook."""

        def replace(old: torch.Tensor, where: Where) -> torch.Tensor:
            centre, read, write = (part.to(old.device) for part in self._tensors)
            wide = old.float()  # in 16 bits, x - centre would lose most of its digits
            new = wide + (wide - centre) @ read @ write
            if self.spares_first:
                first = where.position_numbers(old.shape[:-1]) == 0
                new = torch.where(first[..., None].to(old.device), wide, new)
            return new

        edit = Edit(self.hook_name, self.width, self.index, replace, where)
        return self.hook_name, edit
