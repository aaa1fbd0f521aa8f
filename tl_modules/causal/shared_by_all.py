"""Whether every category needs a module about as much as its own: the module is shared by all."""

import numpy as np
from jaxtyping import Float

from tl_modules.causal.experiment import FIRST
from tl_modules.tables.against_controls import exceeding, p_value_of
from tl_modules.tables.bootstrap import percentile_interval

LEAST_SHARE = 0.5
"""Of the effect on the own category, which the effect on every other one reaches."""

LEVEL = 0.25
"""Of the test against controls. A few units carry most of what every category needs, and in large
random sets there are some of them: with 0.05, modules that hold them would pass as often."""


def is_shared_by_all(
    effects: Float[np.ndarray, "runs categories"],
    resampled: Float[np.ndarray, "resamples categories"],
    own: int | None,
    tolerance: float,
    *,
    first_only: bool,
) -> bool:
    """Whether a target is shared by all: it harms every category, about as much as its own.

    Three things have to hold. Every effect is above 0, by the lower end of its 95 % interval over
    prompts. Every effect is at least half of that on the own category, by the lower end as well.
    And the smallest effect is larger than the smallest of most controls: one in four controls may
    do as much. The last test alone passes one random target in four.

    Args:
        effects: On each category: the target's first, then each control's.
        resampled: The target's, on bootstrap resamples of the prompts; NaN where there is one
            prompt.
        own: The own category's column; None compares with the largest effect.
        tolerance: Between two runs; see ``run_rounding``.
        first_only: Whether other tests decided how many controls ran. The first ones, which run in
            any case, are then those that count.

    Returns:
        False too with one category, fewer than 3 controls, or a category of one prompt.
    """
    least = effects.min(axis=1)
    controls = least[1 : 1 + FIRST] if first_only else least[1:]
    p_value = p_value_of(exceeding(float(least[0]), controls, tolerance))
    if effects.shape[1] < 2 or not p_value <= LEVEL:
        return False
    compared = resampled.max(axis=1) if own is None else resampled[:, own]
    others = resampled if own is None else np.delete(resampled, own, axis=1)
    over = others - LEAST_SHARE * compared[:, None]
    return all(bool((percentile_interval(each)[0] > 0).all()) for each in (resampled, over))
