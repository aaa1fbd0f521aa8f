"""How an experiment changes the units of its modules, and draws their controls."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from tl_modules.interventions.replacements import HasUnitMeans, Method
from tl_modules.interventions.strata import Strata
from tl_modules.units import Units

Touched = Literal["content", "all"]
"""The tokens of a prompt at which an experiment changes units. ``content``: all but special tokens
and attention sinks; means are over such tokens too. ``all``: every token; means are over all."""


def layer_strata(units: Units, reference: HasUnitMeans | None) -> Strata:
    """Controls that share nothing but the layer."""
    del reference
    return Strata.by_layer(units)


@dataclass(frozen=True, eq=False)
class Ablation:
    """The options of an experiment that apply to units, and to nothing else."""

    method: Method = "mean"
    """What becomes of the units' activations."""

    reference: HasUnitMeans | None = None
    """Where the new values come from; by default each target's own reference."""

    factor: float | None = None
    """For ``method="scale"``."""

    keep_only: bool = False
    """Change every unit of the site but the target's."""

    exclude: Units | None = None
    """Units that neither targets nor controls change."""

    seed: int = 0
    """Seeds ``"resample"``."""

    positions: Touched = "all"
    """The tokens at which units are changed."""

    strata: Callable[[Units, HasUnitMeans | None], Strata] = layer_strata
    """Makes the strata that controls are drawn from, of a target's units and its own reference."""

    @property
    def of_content(self) -> bool:
        """Whether means and resampled tokens are those of content."""
        return self.positions == "content"

    def changed(self, units: Units) -> Units:
        """The units to change so that a target's or a control's are ablated, or kept alone."""
        if not self.keep_only:
            return units
        rest = units.complement()
        return rest if self.exclude is None else rest.without(self.exclude)
