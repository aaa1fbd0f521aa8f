"""Sets of units as an experiment changes them: options applied, edits built once."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Shaped

from tl_modules.errors import ModulesError
from tl_modules.interventions.ablation import Ablation, Touched
from tl_modules.interventions.hooks import UnitEdits
from tl_modules.interventions.joined_edits import Recipe
from tl_modules.interventions.positions import Positions
from tl_modules.interventions.replacements import HasUnitMeans, Method
from tl_modules.interventions.target import Target
from tl_modules.models.hooked_model import FwdHooks, HookedModel
from tl_modules.models.token_arrays import TokenArray
from tl_modules.runtime.call_warnings import warn_user
from tl_modules.units import Units

if TYPE_CHECKING:
    from tl_modules.interventions.unit_target import UnitTarget


@dataclass(frozen=True, eq=False)
class PreparedUnits(Target):
    """Units in an experiment. Their hooks are built once, for all batches."""

    label: int | str
    category: str | None
    n_units: int
    """The number of units of the target or the control."""

    units: Units
    """The units that are changed."""

    @property
    def recipe(self) -> Recipe:
        """How the units are changed."""
        raise NotImplementedError

    @cached_property
    def edits(self) -> UnitEdits:
        """The edits that change the units. ``"patch"`` has none: its values differ by batch."""
        recipe = self.recipe
        return UnitEdits(
            self.units,
            recipe.method,
            recipe.reference,
            factor=recipe.factor,
            seed=recipe.seed,
            of_content=recipe.of_content,
        )

    @property
    def size(self) -> int:
        """The number of units of the target or the control."""
        return self.n_units

    def check_model(self, model: HookedModel) -> None:
        """Refuse a model without these units; see ``UnitTarget.check_model``."""
        self.units.check_model(model)

    def fwd_hooks(
        self,
        *,
        positions: Positions = None,
        attention_mask: TokenArray | None = None,
        rows: Shaped[np.ndarray, "..."] | Sequence[int] | None = None,
    ) -> FwdHooks:
        """Return hooks with the same edits at these positions; see ``Target.fwd_hooks``."""
        return self.edits.hooks(positions=positions, attention_mask=attention_mask, rows=rows)


def check_exclude(exclude: Units, units: Units) -> None:
    """Refuse units to exclude that belong to another model.

    Raises:
        ModulesError: If their hook points or widths are not those of ``units``.
    """
    if not exclude.same_hooks(units):
        raise ModulesError(
            "exclude should be units of the modules' model; its hook points or widths differ."
        )


@dataclass(frozen=True, eq=False)
class AblatedUnits(PreparedUnits):
    """Units that an experiment changes by its own options."""

    own_units: Units
    """The units of the target. Controls are drawn from the strata of these units."""

    reference: HasUnitMeans | None
    """The reference of the target, used if the experiment has none."""

    ablation: Ablation
    """The options of the experiment."""

    @classmethod
    def of(cls, target: "UnitTarget", ablation: Ablation) -> "AblatedUnits":
        """Prepare a target's units for an experiment with these options.

        Raises:
            ModulesError: If an option does not fit, or ``exclude`` belongs to another model.
        """
        units = target.units
        if ablation.exclude is not None:
            check_exclude(ablation.exclude, units)
            units = units.without(ablation.exclude)
        made = cls._made(target.label, target.category, units, target.reference, ablation)
        if ablation.method != "patch":
            # An option that does not fit is refused before a run. The edits themselves are built
            # when they are needed: sets that share passes need none.
            made.recipe.replacements(made.units.coordinates())
        return made

    @classmethod
    def _made(
        cls,
        label: int | str,
        category: str | None,
        own_units: Units,
        reference: HasUnitMeans | None,
        ablation: Ablation,
    ) -> "AblatedUnits":
        changed = ablation.changed(own_units)
        return cls(label, category, len(own_units), changed, own_units, reference, ablation)

    @property
    def recipe(self) -> Recipe:
        """How the units are changed: as the experiment says."""
        options = self.ablation
        values = self.reference if options.reference is None else options.reference
        return Recipe(
            options.method, values, options.factor, options.seed, of_content=options.of_content
        )

    def controls(self, n_controls: int, generator: np.random.Generator) -> list["AblatedUnits"]:
        """Draw random sets with as many units of each stratum as the target.

        Args:
            n_controls: The number of controls.
            generator: Draws the units.

        Returns:
            The controls, with the options of the experiment.
        """
        strata = self.ablation.strata(self.own_units, self.reference)
        drawn = [strata.draw(self.own_units, generator) for _ in range(n_controls)]
        self._warn_if_nothing_differs(drawn)
        return [
            self._made(self.label, self.category, units, self.reference, self.ablation)
            for units in drawn
        ]

    def _warn_if_nothing_differs(self, drawn: Sequence[Units]) -> None:
        """Warn if every control equals the target."""
        own = np.sort(self.own_units.flat())
        if drawn and all(np.array_equal(units.flat(), own) for units in drawn):
            what = (
                "holds all units that its controls are drawn from" if len(own) else "has no units"
            )
            warn_user(
                f"Module {self.label} {what}, so that every control is the module itself: its "
                "p-values are 1 and say nothing. Leave it out, or exclude fewer units."
            )


@dataclass(frozen=True, eq=False)
class OwnAblation(PreparedUnits):
    """Units of a target that keeps its own method and its own controls in an experiment."""

    target: "UnitTarget"
    """The target."""

    method: Method
    """The method of the target."""

    positions: Touched
    """The tokens at which the experiment changes units."""

    @classmethod
    def of(cls, target: "UnitTarget", method: Method, positions: Touched) -> "OwnAblation":
        """Prepare the units of a target."""
        units = target.units
        return cls(target.label, target.category, len(units), units, target, method, positions)

    @property
    def recipe(self) -> Recipe:
        """How the units are changed: by the target's own method."""
        of_content = self.positions == "content"
        return Recipe(self.method, self.target.reference, of_content=of_content)

    def controls(self, n_controls: int, generator: np.random.Generator) -> list[Target]:
        """Draw the controls that the target defines.

        Args:
            n_controls: The number of controls.
            generator: Draws the controls.

        Returns:
            The controls, prepared like the target.
        """
        drawn = self.target.controls(n_controls, generator)
        return [control.in_experiment(Ablation(positions=self.positions)) for control in drawn]
