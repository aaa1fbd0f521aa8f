"""Random sets of units that resemble a given set: the controls of causal tests.

The null hypothesis is that a module is a random subset of its layers' units, given how many it has
in each stratum. Under it the module and its controls are draws from one distribution, so that
``control_p_value`` is valid. That needs controls from *all* units of a stratum, the module's own
included: sets from outside the module alone are anti-correlated with it (with two modules, every
control is the other one), and random modules then pass as selective in up to half of the cases.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from tl_modules.errors import ModulesError
from tl_modules.tables.strata import draw_like, rank_strata
from tl_modules.units import Units


@dataclass(frozen=True, eq=False)
class Strata:
    """Sets of similar units: a control takes as many units of each as the module has there."""

    pool: Units
    """All units that a control may hold: every unit of the site but the excluded ones."""

    members: list[Int[np.ndarray, " _members"]]
    """Each stratum's units, as places in the pool."""

    @classmethod
    def by_layer(cls, units: Units, exclude: Units | None = None) -> "Strata":
        """One stratum per layer (per hook point, where a layer has several).

        Args:
            units: Any units of the site.
            exclude: Units that no control holds.

        Returns:
            The strata.
        """
        pool = _pool(units, exclude)
        return cls(pool, [members for _, members in pool.by_hook()])

    @classmethod
    def matched(
        cls, units: Units, values: Float[np.ndarray, " _units"], exclude: Units | None = None
    ) -> "Strata":
        """Strata of similar values within each layer.

        A layer's units are ranked by value. The eight lowest and the eight highest make a stratum
        each; strata further inwards are larger, up to an eighth of the layer (see
        ``rank_strata``): few units lie far out, and those matter most. A layer of fewer than 24
        units is one stratum.

        Args:
            units: Any units of the site.
            values: A value of every unit of the site, such as its mean |activation|.
            exclude: Units that no control holds.

        Returns:
            The strata.
        """
        pool = _pool(units, exclude)
        pool_values = values[pool.flat()]
        strata = []
        for _, members in pool.by_hook():
            numbers = rank_strata(pool_values[members])
            strata += [members[numbers == number] for number in range(numbers.max() + 1)]
        return cls(pool, strata)

    def draw(self, units: Units, generator: np.random.Generator) -> Units:
        """A control.

        Args:
            units: The module's units.
            generator: Draws the control.

        Returns:
            As many random units of each stratum as the module has there.

        Raises:
            ModulesError: If the units belong to another model or site than the strata.
        """
        if not units.same_hooks(self.pool):
            raise ModulesError(
                "modules should belong to one model and site; their hook points or widths differ. "
                "Test the modules of one site at a time."
            )
        own = np.isin(self.pool.flat(), units.flat())
        return self.pool.select(draw_like(self.members, own, generator))


def _pool(units: Units, exclude: Units | None) -> Units:
    every = units.every()
    return every if exclude is None else every.without(exclude)
