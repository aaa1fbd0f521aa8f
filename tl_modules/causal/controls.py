"""Controls: random sets of units to hold a module's effect against."""

import numpy as np

from tl_modules.units import Units


def layer_matched_control(units: Units, generator: np.random.Generator) -> Units:
    """Random units outside a module: in each layer as many as the module has there.

    Where a module holds more than half of a layer there are not enough others: the control then
    takes all of them and is smaller than the module (effect tables show its size). Such a set
    hits the few neurons that every prompt needs as often as chance has it, while a module may
    avoid them: compare selectivities, not raw effects.

    Args:
        units: The module's units.
        generator: Draws the control.

    Returns:
        The control's units.
    """
    outside = units.complement()
    chosen = [np.empty(0, dtype=np.int64)]  # a module may be empty
    for hook, own in units.by_hook():
        free = np.flatnonzero(outside.hook == hook)
        chosen.append(generator.choice(free, size=min(len(own), len(free)), replace=False))
    return outside.select(np.sort(np.concatenate(chosen)))
