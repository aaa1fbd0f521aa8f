"""A linear change of some coordinates of one hook point."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Float, Int

from tl_modules.interventions.hooks import Edit
from tl_modules.interventions.positions import Where


@dataclass(frozen=True, eq=False)
class LinearEdit:
    """Puts ``x + (x - centre) @ read @ write`` in place of some coordinates ``x`` of a token.

    Mean ablation is the case where ``read @ write`` is minus the identity.
    """

    hook_name: str
    """The hook point."""

    width: int
    """How many coordinates it has."""

    index: Int[np.ndarray, " chosen"]
    """The coordinates to change."""

    centre: Float[np.ndarray, " chosen"]
    """What stays as it is."""

    read: Float[np.ndarray, "chosen rank"]
    """The directions that are read."""

    write: Float[np.ndarray, "rank chosen"]
    """What is added for each."""

    spares_first: bool = False
    """Leave each prompt's first token as it is."""

    @cached_property
    def _tensors(self) -> list[torch.Tensor]:
        """Made once: an experiment asks for the hook in every batch."""
        with torch.inference_mode(False):  # kept for later runs, which may need gradients
            return [
                torch.from_numpy(np.array(part, dtype=np.float32))
                for part in (self.centre, self.read, self.write)
            ]

    def hook(self, where: Where) -> tuple[str, Edit]:
        """The hook point's name and the hook, which can be stacked."""

        def replace(old: torch.Tensor, where: Where) -> torch.Tensor:
            centre, read, write = (part.to(old.device) for part in self._tensors)
            wide = old.float()
            new = wide + (wide - centre) @ read @ write
            if self.spares_first:
                first = where.position_numbers(old.shape[:-1]) == 0
                new = torch.where(first[..., None].to(old.device), wide, new)
            return new

        edit = Edit(self.hook_name, self.width, self.index, replace, where)
        return self.hook_name, edit
