"""Controls: sets of units outside a module to hold its effect against."""

from bisect import bisect_left

import numpy as np
from jaxtyping import Float

from tl_modules.units import Units

KINDS = ("layer", "magnitude", "attribution")
"""``layer``: random units of the same layers. ``magnitude``: of the same layers and like mean |a|.
``attribution``: of the same layers and a like estimated effect of ablating each alone."""

N_NEAR = 8
"""A matched control's unit is drawn from so many nearest ones."""


def layer_matched_control(
    units: Units, generator: np.random.Generator, exclude: Units | None = None
) -> Units:
    """Random units outside a module: in each layer as many as the module has there.

    Where a module holds more than half of a layer there are not enough others: the control then
    takes all of them and is smaller than the module (effect tables show its size). Such a set
    hits the few neurons that every prompt needs as often as chance has it, while a module may
    avoid them: compare selectivities, not raw effects.

    Args:
        units: The module's units.
        generator: Draws the control.
        exclude: Units that no control takes.

    Returns:
        The control's units.
    """
    outside = _outside(units, exclude)
    chosen = [np.empty(0, dtype=np.int64)]  # a module may be empty
    for hook, own in units.by_hook():
        free = np.flatnonzero(outside.hook == hook)
        chosen.append(generator.choice(free, size=min(len(own), len(free)), replace=False))
    return outside.select(np.sort(np.concatenate(chosen)))


def matched_control(
    units: Units,
    values: Float[np.ndarray, " _units"],
    generator: np.random.Generator,
    exclude: Units | None = None,
) -> Units:
    """Units outside a module, each of the same layer as one of its units and of a like value.

    In a random order each unit of the module takes one of the 8 free units of its layer whose
    values are nearest to its own, until none is left.

    Args:
        units: The module's units.
        values: A value of every unit of the site, such as its mean |activation|.
        generator: Draws the control.
        exclude: Units that no control takes.

    Returns:
        The control's units.
    """
    outside = _outside(units, exclude)
    theirs, ours = values[outside.flat()], values[units.flat()]
    chosen: list[int] = []
    for hook, own in units.by_hook():
        free = np.flatnonzero(outside.hook == hook)
        free = free[np.argsort(theirs[free], kind="stable")].tolist()
        sizes = theirs[free].tolist()
        for wanted in ours[generator.permutation(own)].tolist():
            if not free:
                break
            at = bisect_left(sizes, wanted)
            low = max(min(at - N_NEAR // 2, len(free) - N_NEAR), 0)
            picked = int(generator.integers(low, min(low + N_NEAR, len(free))))
            chosen.append(free.pop(picked))
            sizes.pop(picked)
    return outside.select(np.sort(np.array(chosen, dtype=np.int64)))


def _outside(units: Units, exclude: Units | None) -> Units:
    """All units but the module's and the excluded ones."""
    outside = units.complement()
    return outside if exclude is None else outside.without(exclude)
