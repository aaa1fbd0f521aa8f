"""Changes of chosen units at chosen positions while a model runs.

A `Target` is anything that causal tests can intervene on.
"""

from tl_modules.interventions.attachments import attached, detach_all
from tl_modules.interventions.content_positions import content_positions
from tl_modules.interventions.target import Target
from tl_modules.interventions.unit_target import UnitTarget

__all__ = [
    "Target",
    "UnitTarget",
    "attached",
    "content_positions",
    "detach_all",
]
