"""The units that every module needs: set aside from the modules, and a target of their own."""

from dataclasses import dataclass, field

from tl_modules.interventions.replacements import HasUnitMeans
from tl_modules.interventions.unit_target import UnitTarget
from tl_modules.tables.effects_frame import SHARED
from tl_modules.units import Units


@dataclass(frozen=True, eq=False, repr=False)
class SharedSet(UnitTarget):
    """The units that were set aside because every category of prompts needs them.

    ``fwd_hooks``, ``ablated`` and ``attach`` intervene on them, and causal tests take them beside
    modules: ``module_effects(model, [*modules, modules.shared], prompts)``. Reports and
    ``with_effects`` take the modules' rows of such a table.
    """

    units: Units
    """The units."""

    reference: HasUnitMeans | None = field()  # it has no default, unlike a UnitTarget's
    """Where mean ablation takes its values from by default: the set that they were set aside in."""

    label: str = SHARED
    """Their name in tables."""

    category: str | None = None
    """None: they serve no category more than another."""

    @property
    def n_units(self) -> int:
        """The number of units."""
        return len(self.units)

    def __repr__(self) -> str:
        """One line, without the arrays."""
        return f"SharedSet({self.n_units:,} units)"
